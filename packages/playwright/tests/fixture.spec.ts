import { expect, test } from '@playwright/test';
import { found, leased, runSuite, type Suite } from './run-suite.js';

/** What a token looks like: nothing that is written may hold one. */
const TOKEN = /atdm_[A-Za-z0-9_-]{43}/;

test.beforeAll(() => {
  expect(process.env['ATDM_DATABASE_URL'], 'a target with ready runs of active_member_clean').toBeTruthy();
});

test.describe('around tests of every outcome', () => {
  let suite: Suite;
  test.beforeAll(async () => {
    suite = await runSuite('outcomes');
  });

  const runs = (title: string): string[] =>
    suite.tests[title]!.annotations
      .filter((item) => item.type === 'atdm')
      .map((item) => /test run (\S+),/.exec(item.description!)![1]!);

  for (const [title, status, count] of [
    ['passes', 'passed', 1],
    ['fails', 'failed', 1],
    ['times out', 'timedOut', 1],
    ['has two actors', 'passed', 2],
    ['resets by itself', 'passed', 1],
    ['leases nothing unless asked', 'passed', 0],
  ] as const) {
    test(`a test that ${title} leaves nothing`, async () => {
      expect(suite.tests[title]?.status, suite.tests[title]?.error ?? suite.err).toBe(status);
      expect(runs(title)).toHaveLength(count);
      for (const run of runs(title)) expect(await found(run)).toEqual({ status: 'cleaned', rows: 0 });
    });
  }

  test('a failing test says how to have its data again', () => {
    for (const title of ['fails', 'times out']) {
      expect(suite.tests[title]!.attachments['atdm']).toContain(`atdm replay ${runs(title)[0]}`);
      expect(suite.tests[title]!.attachments['atdm']).toMatch(/scenario healthcare\/active_member_clean, .* seed \d+/);
    }
    expect(suite.tests['passes']!.attachments).not.toHaveProperty('atdm');
  });

  for (const [title, ...words] of [
    ['is refused', 'NONE_READY', 'atdm request SCENARIO --no-lease'],
    ['is refused by name', 'CONSTRAINT_INVALID', 'membr_status'],
    ['with a misspelt scenario', 'SCENARIO_NOT_FOUND', 'known: ', 'active_member_clean'],
    ['with a senseless ttl', 'REQUEST_INVALID', '90s, 30m, 4h or 1d'],
  ] as const) {
    test(`what cannot be leased ${title}: the error says what to do`, () => {
      expect(suite.tests[title]?.status).toBe('failed');
      for (const word of words) expect(suite.tests[title]!.error).toContain(word);
    });
  }

  test('no token is in the report', () => {
    expect(suite.report).toContain('passes');
    expect(suite.report).not.toMatch(TOKEN);
    expect(suite.tests['passes']!.out).toContain('TestRun');
  });
});

test('what a killed worker held is given back when the suite ends', async () => {
  const before = await leased();
  const suite = await runSuite('killed');
  const run = /run (\S+)/.exec(suite.tests['is killed']!.out)![1]!;
  expect(suite.tests['is killed']!.status).toBe('failed');
  expect(suite.err).toContain(`atdm: 1 test runs that nobody had given back are reset: ${run}`);
  expect(await found(run)).toEqual({ status: 'cleaned', rows: 0 });
  expect(await leased()).toBe(before);
});


test('what an interrupted suite held is given back', async () => {
  const before = await leased();
  const suite = await runSuite('interrupted');
  expect(suite.tests['is interrupted']!.status).toBe('interrupted');
  expect(suite.tests['is interrupted']!.annotations.map((item) => item.type)).toEqual(['atdm']);
  expect(await leased()).toBe(before);
});
