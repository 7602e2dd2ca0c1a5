import { test } from '../../src/index.js';

test.use({ atdmScenario: 'active_member_clean' });

test('is killed', async ({ atdm }) => {
  console.log(`run ${atdm.testRunId}`);
  process.kill(process.pid, 'SIGKILL');
  await new Promise(() => undefined);
});
