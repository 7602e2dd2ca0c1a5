import { chmod, readFile, writeFile } from 'node:fs/promises';
import { inspect } from 'node:util';
import { expect, test, type TestInfo } from '@playwright/test';
import { AtdmDatabase, AtdmError } from '../src/index.js';
import { found } from './run-suite.js';

const SCENARIO = 'active_member_clean';
const TOKEN = `atdm_${'x'.repeat(43)}`;
/** Constraints that no ready run has. */
const RARE = { coverage_type: 'epo' };

async function refusal(call: Promise<unknown>): Promise<AtdmError> {
  const error = await call.then(
    () => undefined,
    (reason: unknown) => reason,
  );
  expect(error).toBeInstanceOf(AtdmError);
  return error as AtdmError;
}

test('a run is leased, reset once, and a wrong token refused', async () => {
  const database = new AtdmDatabase();
  try {
    const lease = await database.lease(SCENARIO);
    expect(lease.seed).toMatch(/^\d+$/);
    expect(await found(lease.testRunId)).toEqual({ status: 'leased', rows: 1 });
    const wrong = await refusal(database.reset(lease.testRunId, TOKEN));
    expect(wrong.code).toBe('TOKEN_MISMATCH');
    expect(inspect(wrong)).not.toContain(TOKEN);
    expect(await database.reset(lease.testRunId, lease.token)).toMatchObject({
      status: 'cleaned',
      testRunId: lease.testRunId,
      deleted: { member: 1 },
      adopted: {},
    });
    expect((await database.reset(lease.testRunId, lease.token)).status).toBe('already_cleaned');
  } finally {
    await database.close();
  }
});

test('two leases at once are two runs', async () => {
  const database = new AtdmDatabase();
  try {
    const leases = await Promise.all([database.lease(SCENARIO), database.lease(SCENARIO)]);
    expect(new Set(leases.map((lease) => lease.testRunId)).size).toBe(2);
    await Promise.all(leases.map((lease) => database.reset(lease.testRunId, lease.token)));
  } finally {
    await database.close();
  }
});

for (const [what, url, ...words] of [
  ['no URL', undefined, 'TARGET_UNREACHABLE', 'eval "$(atdm env)"'],
  ['no server', 'postgresql://me:hidden@127.0.0.1:1/x', 'TARGET_UNREACHABLE', 'me:***@', 'that the server runs'],
  ['a driver in the scheme', 'postgresql+psycopg://me:hidden@127.0.0.1:1/x', 'TARGET_UNREACHABLE', 'ECONNREFUSED'],
] as const) {
  test(`${what}: the error says what to do, and no password`, async () => {
    const error = await refusal(
      (async () => {
        const kept = process.env['ATDM_DATABASE_URL'];
        if (url === undefined) delete process.env['ATDM_DATABASE_URL'];
        try {
          await new AtdmDatabase(url).lease(SCENARIO);
        } finally {
          process.env['ATDM_DATABASE_URL'] = kept;
        }
      })(),
    );
    for (const word of words) expect(error.message).toContain(word);
    expect(inspect(error)).not.toContain('hidden');
  });
}

test.describe('what is not ready is made by the command atdm', () => {
  const made = async (command: string): Promise<unknown> => {
    process.env['ATDM_CLI'] = command;
    process.env['ATDM_OWNER'] = 'ci';
    const database = new AtdmDatabase();
    try {
      return await database.lease(SCENARIO, RARE, { ttl: '10m', reason: 'a test' });
    } finally {
      await database.close();
      delete process.env['ATDM_CLI'];
      delete process.env['ATDM_OWNER'];
    }
  };
  const command = async (testInfo: TestInfo, script: string): Promise<string> => {
    const path = testInfo.outputPath('atdm');
    await writeFile(path, `#!/usr/bin/env node\n${script}`);
    await chmod(path, 0o755);
    return path;
  };

  test('with the words that it takes', async ({}, testInfo) => {
    const answer = {
      cleanup: { cleanup_token: TOKEN },
      data: { member_id: 'm-1' },
      domain: 'healthcare',
      request_id: '01K7ZQ0000ABCDEFGHJK000000',
      scenario_id: SCENARIO,
      seed: 1,
      status: 'ready',
      test_run_id: '01K7ZQ0000ABCDEFGHJK000001',
    };
    const text = JSON.stringify(answer, null, 2).replace('"seed": 1', '"seed": 9223372036854775807');
    const words = testInfo.outputPath('words');
    const path = await command(
      testInfo,
      `import('node:fs').then((fs) => fs.writeFileSync(${JSON.stringify(words)}, process.argv.slice(2).join(' ')));\n` +
        `console.log(${JSON.stringify(text)});`,
    );
    expect(await made(path)).toMatchObject({
      testRunId: answer.test_run_id,
      data: { member_id: 'm-1' },
      seed: '9223372036854775807',
      token: TOKEN,
    });
    expect(await readFile(words, 'utf8')).toBe(
      `-q -o json request ${SCENARIO} --owner ci -c coverage_type=epo --ttl 10m --reason a test`,
    );
  });

  for (const [what, script, code, word] of [
    ['an error', `console.log('{"error": {"code": "BUSY", "message": "no"}}'); process.exit(1)`, 'BUSY', 'no'],
    ['a rejection', `console.log('{"status": "rejected"}')`, 'NONE_READY', 'is made to be rejected'],
    ['nonsense', `console.log('${TOKEN}')`, 'NONE_READY', 'gave no answer'],
    ['nothing', '', 'NONE_READY', 'gave no answer'],
  ] as const) {
    test(`which answers with ${what}`, async ({}, testInfo) => {
      const error = await refusal(made(await command(testInfo, script)));
      expect(error.code).toBe(code);
      expect(error.message).toContain(word);
      expect(inspect(error)).not.toContain(TOKEN);
    });
  }

  test('which is not there', async () => {
    const error = await refusal(made('/nowhere/atdm'));
    expect(error.code).toBe('NONE_READY');
    expect(error.message).toContain('install the command `atdm`');
  });
});
