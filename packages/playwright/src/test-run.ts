/** What a test holds: a leased run, and the factory for more of them. */
import type { AtdmDatabase, Constraints, Lease, LeaseOptions, ResetResult } from './database.js';
import { AtdmError } from './errors.js';

/**
 * A leased test run. Its token is private to it: neither printing the object, nor JSON, nor a
 * Playwright trace or report shows it.
 */
export class TestRun<Data extends object = Record<string, any>> {
  readonly #token: string;
  readonly #database: AtdmDatabase;
  readonly testRunId: string;
  readonly requestId: string;
  readonly domain: string;
  readonly scenarioId: string;
  /** Keys by the names that the scenario exposes. */
  readonly data: Readonly<Data>;
  readonly seed: string;
  /** The clock that the data was made by, ISO 8601. */
  readonly asOf: string;
  /** When the rows go if nobody gives them back, ISO 8601. */
  readonly expiresAt: string;

  constructor(database: AtdmDatabase, lease: Lease) {
    this.#database = database;
    this.#token = lease.token;
    this.testRunId = lease.testRunId;
    this.requestId = lease.requestId;
    this.domain = lease.domain;
    this.scenarioId = lease.scenarioId;
    this.data = Object.freeze(lease.data) as Readonly<Data>;
    this.seed = lease.seed;
    this.asOf = lease.asOf;
    this.expiresAt = lease.expiresAt;
  }

  /**
   * Delete the run's rows now, and what the application hung on them, reported as `adopted`.
   * Not needed: the fixture does it after the test. A second time it is `already_cleaned`.
   */
  async reset(): Promise<ResetResult> {
    return await this.#database.reset(this.testRunId, this.#token);
  }
}

/** The fixture `atdm`: the run of the test's scenario, and further ones by `lease`. */
export class Atdm {
  readonly #database: AtdmDatabase;
  readonly #defaults: LeaseOptions;
  readonly #primary: TestRun | undefined;
  readonly #runs: TestRun[] = [];

  private constructor(database: AtdmDatabase, defaults: LeaseOptions, primary: TestRun | undefined) {
    this.#database = database;
    this.#defaults = defaults;
    this.#primary = primary;
    if (primary) this.#runs.push(primary);
  }

  /** @internal */
  static async open(
    database: AtdmDatabase,
    defaults: LeaseOptions,
    scenario: string | undefined,
    constraints: Constraints,
  ): Promise<Atdm> {
    const primary = scenario
      ? new TestRun(database, await database.lease(scenario, constraints, defaults))
      : undefined;
    return new Atdm(database, defaults, primary);
  }

  /** Keys of the test's run, by the names that its scenario exposes. */
  get data(): Readonly<Record<string, any>> {
    return this.run.data;
  }

  get testRunId(): string {
    return this.run.testRunId;
  }

  /** The run of the option `atdmScenario`. */
  get run(): TestRun {
    if (!this.#primary) {
      throw new AtdmError(
        'REQUEST_INVALID',
        "no scenario is named for this test: test.use({ atdmScenario: 'NAME' }), or atdm.lease('NAME')",
      );
    }
    return this.#primary;
  }

  /** Everything that is leased in this test so far. */
  get runs(): readonly TestRun[] {
    return [...this.#runs];
  }

  /** Lease another run for this test: two actors, two scenarios. It is reset after the test as well. */
  async lease<Data extends object = Record<string, any>>(
    scenario: string,
    constraints: Constraints = {},
    options: LeaseOptions = {},
  ): Promise<TestRun<Data>> {
    const lease = await this.#database.lease(scenario, constraints, { ...this.#defaults, ...options });
    const run = new TestRun<Data>(this.#database, lease);
    this.#runs.push(run as TestRun);
    return run;
  }

  /** Delete the rows of the test's run now. See {@link TestRun.reset}. */
  async reset(): Promise<ResetResult> {
    return await this.run.reset();
  }
}
