import { test } from '../../src/index.js';

test.use({ atdmScenario: 'active_member_clean' });

test('is interrupted', async ({ atdm }) => {
  test.setTimeout(60_000);
  process.kill(process.ppid, 'SIGINT');
  await new Promise((resolve) => setTimeout(resolve, 30_000, atdm.testRunId));
});
