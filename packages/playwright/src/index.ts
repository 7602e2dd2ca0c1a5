/**
 * Playwright's `test` with a fixture `atdm`: data by intent, leased before the test, gone after it.
 *
 * Belongs here: options, fixtures, and what a report says of a test's data. Does not belong here:
 * talking to the database (`database.ts`).
 */
import { test as base, type TestInfo } from '@playwright/test';
import { AtdmDatabase, type Constraints, type WhenNoneReady } from './database.js';
import { Atdm } from './test-run.js';

export { expect } from '@playwright/test';
export { AtdmDatabase } from './database.js';
export type { Constraints, Lease, LeaseOptions, ResetResult, Scalar, WhenNoneReady } from './database.js';
export { AtdmError } from './errors.js';
export { Atdm, TestRun } from './test-run.js';

/** Options of a test, a file or a project: `test.use({ ... })`, `use: { ... }` in the configuration. */
export interface AtdmOptions {
  /** The scenario whose data `atdm.data` is: `NAME` or `DOMAIN/NAME`. */
  atdmScenario: string | undefined;
  /** Its constraints. */
  atdmConstraints: Constraints;
  /** How long a lease holds, should this process be killed: `30m`, `4h`. Default: the scenario's own. */
  atdmTtl: string | undefined;
  /** When no run is ready: `make` one by the command `atdm` (default), or `fail`. */
  atdmWhenNoneReady: WhenNoneReady;
}

export interface AtdmFixtures {
  atdm: Atdm;
}

export interface AtdmWorkerOptions {
  /** The target. Default: ATDM_DATABASE_URL. The role atdm_client is enough. */
  atdmDatabaseUrl: string | undefined;
}

export interface AtdmWorkerFixtures {
  atdmDatabase: AtdmDatabase;
}

/** Longer than a reset waits for locks: a time-out of the test must not cut its own clean-up short. */
const FIXTURE_TIMEOUT = 60_000;

export const test = base.extend<AtdmOptions & AtdmFixtures, AtdmWorkerOptions & AtdmWorkerFixtures>({
  atdmScenario: [undefined, { option: true }],
  atdmConstraints: [{}, { option: true }],
  atdmTtl: [undefined, { option: true }],
  atdmWhenNoneReady: ['make', { option: true }],
  atdmDatabaseUrl: [undefined, { option: true, scope: 'worker' }],

  atdmDatabase: [
    async ({ atdmDatabaseUrl }, use) => {
      const database = new AtdmDatabase(atdmDatabaseUrl);
      try {
        await use(database);
      } finally {
        await database.close();
      }
    },
    { scope: 'worker' },
  ],

  atdm: [
    async ({ atdmDatabase, atdmScenario, atdmConstraints, atdmTtl, atdmWhenNoneReady }, use, testInfo) => {
      const defaults = {
        ttl: atdmTtl,
        whenNoneReady: atdmWhenNoneReady,
        reason: testInfo.titlePath.join(' > ').slice(0, 500),
      };
      const atdm = await Atdm.open(atdmDatabase, defaults, atdmScenario, atdmConstraints);
      try {
        await use(atdm);
      } finally {
        await report(atdm, testInfo);
        await giveBack(atdm);
      }
    },
    { timeout: FIXTURE_TIMEOUT },
  ],
});

/** Say in the report which data the test had, and after a failure how to have it again. */
async function report(atdm: Atdm, testInfo: TestInfo): Promise<void> {
  for (const run of atdm.runs) {
    testInfo.annotations.push({
      type: 'atdm',
      description: `${run.domain}/${run.scenarioId}, test run ${run.testRunId}, seed ${run.seed}`,
    });
  }
  if (testInfo.status !== testInfo.expectedStatus && atdm.runs.length > 0) {
    const lines = atdm.runs.map(
      (run) =>
        `scenario ${run.domain}/${run.scenarioId}, test run ${run.testRunId}, seed ${run.seed}, as of ${run.asOf}\n` +
        `the same data again: atdm replay ${run.testRunId}`,
    );
    await testInfo.attach('atdm', { body: `${lines.join('\n')}\n`, contentType: 'text/plain' });
  }
}

/** Every run is tried, whatever becomes of the others. */
async function giveBack(atdm: Atdm): Promise<void> {
  const failed: string[] = [];
  for (const run of atdm.runs) {
    try {
      await run.reset();
    } catch (error) {
      failed.push(`the rows of test run ${run.testRunId} (${run.scenarioId}) were not deleted: ${String(error)}`);
    }
  }
  if (failed.length > 0) throw new Error(failed.join('\n'));
}
