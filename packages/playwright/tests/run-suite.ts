/** Running one of the suites as its users do, and reading what came of it. */
import { execFile } from 'node:child_process';
import { createRequire } from 'node:module';
import { mkdtemp, readFile, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import pg from 'pg';

const CONFIG = fileURLToPath(new URL('suites/playwright.config.ts', import.meta.url));
const CLI = createRequire(import.meta.url).resolve('@playwright/test/cli');

export interface Outcome {
  status: string;
  error: string;
  annotations: { type: string; description?: string }[];
  attachments: Record<string, string>;
  out: string;
}

export interface Suite {
  tests: Record<string, Outcome>;
  err: string;
  report: string;
}

/** Run one suite in an environment of its own. */
export async function runSuite(name: string, environment: Record<string, string | undefined> = {}): Promise<Suite> {
  const folder = await mkdtemp(join(tmpdir(), 'atdm-playwright-'));
  const report = join(folder, 'report.json');
  try {
    const err = await new Promise<string>((resolve) => {
      execFile(
        process.execPath,
        [CLI, 'test', '-c', CONFIG, '--reporter', 'json', name],
        {
          env: {
            ...process.env,
            PLAYWRIGHT_JSON_OUTPUT_NAME: report,
            SUITE_OUTPUT: join(process.env['SUITE_OUTPUT'] ?? folder, name),
            ...environment,
          },
          timeout: 50_000,
        },
        (_failed, out, errors) => resolve(out + errors),
      );
    });
    const text = await readFile(report, 'utf8').catch(() => '{"suites": []}');
    return { tests: Object.fromEntries(outcomes(JSON.parse(text).suites)), err, report: text };
  } finally {
    await rm(folder, { recursive: true, force: true });
  }
}

function* outcomes(suites: any[]): Generator<[string, Outcome]> {
  for (const suite of suites) {
    yield* outcomes(suite.suites ?? []);
    for (const spec of suite.specs ?? []) {
      const [test] = spec.tests;
      const result = test.results.at(-1);
      yield [
        spec.title,
        {
          status: result.status,
          error: result.errors.map((error: { message: string }) => error.message).join('\n'),
          annotations: test.annotations,
          attachments: Object.fromEntries(
            result.attachments
              .filter((item: { body?: string }) => item.body)
              .map((item: { name: string; body: string }) => [item.name, Buffer.from(item.body, 'base64').toString()]),
          ),
          out: [...result.stdout, ...result.stderr].map((part: { text?: string }) => part.text ?? '').join(''),
        },
      ];
    }
  }
}

/** The status of a run in the catalog, and how many rows of it are in the target. */
export async function found(testRunId: string): Promise<{ status: string; rows: number }> {
  const client = new pg.Client({ connectionString: process.env['ATDM_DATABASE_URL'] });
  await client.connect();
  try {
    const run = await client.query('SELECT status FROM atdm.test_run WHERE test_run_id = $1', [testRunId]);
    const rows = await client.query('SELECT count(*)::int AS rows FROM healthcare.member WHERE test_run_id = $1', [
      testRunId,
    ]);
    return { status: run.rows[0]?.status, rows: rows.rows[0].rows };
  } finally {
    await client.end();
  }
}

/** How many runs are leased at the moment. */
export async function leased(): Promise<number> {
  const client = new pg.Client({ connectionString: process.env['ATDM_DATABASE_URL'] });
  await client.connect();
  try {
    return (await client.query("SELECT count(*)::int AS n FROM atdm.test_run WHERE status = 'leased'")).rows[0].n;
  } finally {
    await client.end();
  }
}
