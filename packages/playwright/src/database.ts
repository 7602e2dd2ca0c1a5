/**
 * Leasing and giving back over PostgreSQL, by the functions of schema `atdm`.
 *
 * Belongs here: one method for each function, and the connection. Does not belong here: Playwright.
 * The role `atdm_client` is all that is needed; it can read no table.
 */
import { execFile } from 'node:child_process';
import { createHash } from 'node:crypto';
import { hostname, userInfo } from 'node:os';
import { setTimeout as sleep } from 'node:timers/promises';
import pg from 'pg';
import { AtdmError, fromDatabase } from './errors.js';

export type Scalar = string | number | boolean | null;
export type Constraints = Readonly<Record<string, Scalar>>;

/** What becomes of a scenario of which no run is ready: made by the command `atdm`, or an error. */
export type WhenNoneReady = 'make' | 'fail';

export interface LeaseOptions {
  /** How long the lease holds: `90s`, `30m`, `4h`, `1d`. Default: the scenario's own. */
  ttl?: string | undefined;
  /** Default: that of the option `atdmWhenNoneReady`. */
  whenNoneReady?: WhenNoneReady | undefined;
  /** Why, for the audit trail of what has to be made. */
  reason?: string | undefined;
}

/** A leased run as the database hands it out, token included. */
export interface Lease {
  testRunId: string;
  requestId: string;
  domain: string;
  scenarioId: string;
  data: Record<string, any>;
  /** Text: seeds have up to 63 bits, numbers of JavaScript 53. */
  seed: string;
  asOf: string;
  expiresAt: string;
  token: string;
}

/** What a reset deleted: rows by table, and those of them that the application had written. */
export interface ResetResult {
  status: 'cleaned' | 'already_cleaned';
  testRunId: string;
  deleted: Record<string, number>;
  adopted: Record<string, number>;
}

const RETRIES = 5;
const SOURCE = 'playwright';
const TTL = /^[1-9][0-9]*[smhd]$/;

/** One connection to the target, opened at the first call and opened again when it was lost. */
export class AtdmDatabase {
  readonly #pool: pg.Pool;
  readonly #url: string;
  readonly #place: string;

  /** @param url `postgresql://USER:PASSWORD@HOST:PORT/DATABASE`; default: ATDM_DATABASE_URL. */
  constructor(url: string | undefined = process.env['ATDM_DATABASE_URL']) {
    if (!url) {
      throw new AtdmError(
        'TARGET_UNREACHABLE',
        'no database is named: set ATDM_DATABASE_URL or the option atdmDatabaseUrl. ' +
          'With the embedded server: eval "$(atdm env)"',
      );
    }
    // SQLAlchemy writes its driver into the scheme.
    this.#url = url.replace(/^(postgres(?:ql)?)\+[a-z0-9]+:/, '$1:');
    this.#place = masked(this.#url);
    this.#pool = new pg.Pool({
      connectionString: this.#url,
      max: 1,
      idleTimeoutMillis: 0,
      connectionTimeoutMillis: 10_000,
      allowExitOnIdle: true,
      application_name: 'atdm-playwright',
    });
    // A connection that breaks between two tests is replaced; the next call tells if that fails too.
    this.#pool.on('error', () => undefined);
  }

  /** Lease a ready run. When none is ready, have one made by the command `atdm`, unless told not to. */
  async lease(scenario: string, constraints: Constraints = {}, options: LeaseOptions = {}): Promise<Lease> {
    const { ttl } = options;
    if (ttl !== undefined && !TTL.test(ttl)) {
      throw new AtdmError('REQUEST_INVALID', `ttl ${JSON.stringify(ttl)}: write it as 90s, 30m, 4h or 1d`);
    }
    const slash = scenario.lastIndexOf('/');
    const secret = process.env['ATDM_OWNER_SECRET'];
    try {
      const [row] = await this.#rows(
        "SELECT lease, lease ->> 'seed' AS seed FROM atdm.lease($1, $2, $3, $4, $5, $6, NULL, $7, $8) AS lease",
        [
          slash < 0 ? null : scenario.slice(0, slash),
          scenario.slice(slash + 1),
          JSON.stringify(constraints),
          owner(),
          ttl ?? null,
          secret ? createHash('sha256').update(secret).digest() : null,
          invoker(),
          SOURCE,
        ],
      );
      const leased = asLease(row!['lease'] as Record<string, any>, String(row!['seed']));
      if (row!['lease'].overdue) await this.#takeBackOneOverdue();
      return leased;
    } catch (error) {
      if (error instanceof AtdmError && error.code === 'NONE_READY' && options.whenNoneReady !== 'fail') {
        return await this.#made(scenario, constraints, options, error);
      }
      throw error;
    }
  }

  /** Delete a run's rows and all that refers to them. A second time it is `already_cleaned`. */
  async reset(testRunId: string, token: string): Promise<ResetResult> {
    const answer = await this.#reset('SELECT atdm.reset_run($1, $2, $3, $4) AS answer', [
      testRunId,
      token,
      invoker(),
      SOURCE,
    ]);
    return {
      status: answer['status'],
      testRunId: answer['test_run_id'],
      deleted: answer['deleted'] ?? {},
      adopted: answer['adopted'] ?? {},
    };
  }

  /** Delete the rows of every run that `owner` leased with `secret`; the ids of those runs. */
  async resetOwner(owner: string, secret: string): Promise<string[]> {
    const answer = await this.#reset('SELECT atdm.reset_owner($1, $2, $3, $4) AS answer', [
      owner,
      secret,
      invoker(),
      SOURCE,
    ]);
    return answer['runs'] ?? [];
  }

  async close(): Promise<void> {
    await this.#pool.end();
  }

  async #rows(query: string, values: unknown[]): Promise<Record<string, any>[]> {
    try {
      return (await this.#pool.query(query, values)).rows;
    } catch (error) {
      throw fromDatabase(error, this.#place);
    }
  }

  /** A reset function answers with its error, and is tried again when it lost against another transaction. */
  async #reset(query: string, values: unknown[]): Promise<Record<string, any>> {
    for (let attempt = 1; ; attempt += 1) {
      const [row] = await this.#rows(query, values);
      const answer = row!['answer'] as Record<string, any>;
      const problem = answer['error'];
      if (!problem) return answer;
      if (!['40P01', '40001'].includes(problem.details?.sqlstate) || attempt === RETRIES) {
        throw new AtdmError(problem.code, problem.message, problem.details ?? {});
      }
      await sleep(20 * attempt);
    }
  }

  /** Without a daemon, this is what makes abandoned data disappear: one for one. */
  async #takeBackOneOverdue(): Promise<void> {
    await this.#rows('SELECT atdm.expire_due(1)', []).catch((error: Error) => {
      // The caller has its lease: throwing would lose the token. The next lease tries again.
      process.emitWarning(`what is overdue could not be taken back: ${error.message}`, 'AtdmWarning');
    });
  }

  async #made(scenario: string, constraints: Constraints, options: LeaseOptions, refused: AtdmError): Promise<Lease> {
    const words = ['-q', '-o', 'json', 'request', scenario, '--owner', owner()];
    for (const [name, value] of Object.entries(constraints)) words.push('-c', `${name}=${value ?? ''}`);
    if (options.ttl) words.push('--ttl', options.ttl);
    if (options.reason) words.push('--reason', options.reason);
    const answer = await new Promise<{ text: string; failed: Error | null }>((resolve) => {
      execFile(
        process.env['ATDM_CLI'] || 'atdm',
        words,
        { env: { ...process.env, ATDM_DATABASE_URL: this.#url }, maxBuffer: 1 << 24 },
        (failed, text) => resolve({ text, failed }),
      );
    });
    if ((answer.failed as NodeJS.ErrnoException | null)?.code === 'ENOENT') throw refused;
    let told: Record<string, any>;
    try {
      told = JSON.parse(answer.text);
    } catch (cause) {
      // Neither the command's output nor the error of its start is shown: the token may be in it.
      throw new AtdmError('NONE_READY', `\`atdm request ${scenario}\` gave no answer`, {}, undefined);
    }
    if (told['error']) {
      throw new AtdmError(told['error'].code, told['error'].message, told['error'].details ?? {});
    }
    if (told['status'] !== 'ready') {
      throw new AtdmError('NONE_READY', `scenario ${scenario} is made to be ${told['status']}: there is no data`);
    }
    // Parsed a second time for the seed alone: a number would lose its last digits.
    const seed = /^ {2}"seed": (\d+)/m.exec(answer.text)?.[1] ?? String(told['seed']);
    return asLease({ ...told, token: told['cleanup'].cleanup_token }, seed);
  }
}

/** Who holds what is leased here: ATDM_OWNER, else this machine's suites. */
export function owner(): string {
  return process.env['ATDM_OWNER'] || `${SOURCE}@${hostname()}`;
}

function invoker(): string {
  return process.env['ATDM_INVOKER'] || `human:${userInfo().username.replace(/[^!-~]/g, '-')}`;
}

function asLease(told: Record<string, any>, seed: string): Lease {
  return {
    testRunId: told['test_run_id'],
    requestId: told['request_id'],
    domain: told['domain'],
    scenarioId: told['scenario_id'],
    data: told['data'],
    seed,
    asOf: told['as_of'],
    expiresAt: told['expires_at'],
    token: told['token'],
  };
}

function masked(url: string): string {
  return url.replace(/(:\/\/[^:/@]*):[^@/]*@/, '$1:***@').replace(/((?:^|[?&])(?:ssl)?password=)[^&]*/g, '$1***');
}
