/** Errors with the codes that every part of ATDM uses. */

/** What went wrong: `code` and `details` for programs, the message with advice for people. */
export class AtdmError extends Error {
  readonly code: string;
  readonly details: Readonly<Record<string, unknown>>;

  constructor(code: string, message: string, details: Record<string, unknown> = {}, cause?: unknown) {
    const advice = ADVICE[code];
    super(`${code}: ${message}${advice ? `\n${advice}` : ''}`, cause === undefined ? {} : { cause });
    this.name = 'AtdmError';
    this.code = code;
    this.details = details;
  }
}

const ADVICE: Readonly<Record<string, string>> = {
  BUSY: 'A restore or a reset of everything is under way: try again in a moment.',
  CONSTRAINT_INVALID: '`atdm scenarios NAME` shows the constraints of a scenario and their values.',
  NONE_READY:
    'Make some before the suite (`atdm request SCENARIO --no-lease --runs 20`), or let the suite ' +
    "make what is missing: install the command `atdm`, and leave atdmWhenNoneReady at 'make'.",
  SCENARIO_NOT_FOUND: '`atdm scenarios` lists what there is.',
  TARGET_NOT_INITIALISED: 'Run `atdm init` on this database, and grant its user the role atdm_client.',
  TARGET_UNREACHABLE:
    'Check ATDM_DATABASE_URL (postgresql://USER:PASSWORD@HOST:PORT/DATABASE) and that the server runs.',
};

interface DatabaseProblem {
  code?: string;
  detail?: string;
  message: string;
}

/** The error that a function of schema `atdm` raised, or what any other database error means. */
export function fromDatabase(problem: unknown, place: string): AtdmError {
  const { code = '', detail, message } = problem as DatabaseProblem;
  if (code.startsWith('AT') && detail) {
    const told = JSON.parse(detail) as { code: string; details?: Record<string, unknown> };
    const details = told.details ?? {};
    return new AtdmError(told.code, message + shown(details), details, problem);
  }
  if (['42883', '42P01', '3F000'].includes(code)) {
    return new AtdmError('TARGET_NOT_INITIALISED', `${place} has no ATDM catalog`, {}, problem);
  }
  if (code === '42501') {
    return new AtdmError('TARGET_NOT_INITIALISED', `${place}: this user may not lease: ${message}`, {}, problem);
  }
  if (!code || code.startsWith('08') || code.startsWith('28') || code.startsWith('3D') || code.startsWith('E')) {
    return new AtdmError('TARGET_UNREACHABLE', `cannot use ${place}: ${reason(problem)}`, {}, problem);
  }
  return new AtdmError('DATABASE_ERROR', `${place}: ${message} (${code})`, { sqlstate: code }, problem);
}

/** A refused connection is an AggregateError, whose own message is empty. */
function reason(problem: unknown): string {
  if (problem instanceof AggregateError) {
    return problem.errors.map((error) => (error as Error).message).join('; ');
  }
  return (problem as Error).message;
}

function shown(details: Record<string, unknown>): string {
  const known = details['known'];
  if (Array.isArray(known) && known.length) return `; known: ${known.join(', ')}`;
  const problems = details['problems'];
  if (Array.isArray(problems) && problems.length) {
    return problems.map((problem) => `\n  ${JSON.stringify(problem)}`).join('');
  }
  return '';
}
