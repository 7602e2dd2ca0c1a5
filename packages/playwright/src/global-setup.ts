/**
 * A global set-up that also gives back what killed workers held.
 *
 * A worker that is killed resets nothing, and its data would stay until the lease ends. Here every
 * run of the suite is leased under one owner with a secret of its own, and what that owner still
 * holds when the suite ends is given back. In playwright.config.ts:
 *
 *     globalSetup: require.resolve('atdm-playwright/global-setup'),
 */
import { randomBytes } from 'node:crypto';
import { hostname } from 'node:os';
import type { FullConfig } from '@playwright/test';
import { AtdmDatabase } from './database.js';

type Teardown = () => Promise<void>;

export default async function globalSetup(config: FullConfig): Promise<Teardown | void> {
  process.env['ATDM_OWNER'] ||= `playwright@${hostname()}:${process.pid}`;
  // Whoever brings a secret along resets by it, perhaps after several suites that run side by side.
  if (process.env['ATDM_OWNER_SECRET']) return;
  const secret = (process.env['ATDM_OWNER_SECRET'] = randomBytes(32).toString('base64url'));
  const owner = process.env['ATDM_OWNER'];
  const given = config.projects.map((project) => (project.use as { atdmDatabaseUrl?: string }).atdmDatabaseUrl);
  const targets = new Set(given.map((url) => url ?? process.env['ATDM_DATABASE_URL']));
  return async () => {
    for (const url of targets) if (url) await giveBack(url, owner, secret);
  };
}

async function giveBack(url: string, owner: string, secret: string): Promise<void> {
  const database = new AtdmDatabase(url);
  try {
    const left = await database.resetOwner(owner, secret);
    if (left.length > 0) {
      console.warn(`atdm: ${left.length} test runs that nobody had given back are reset: ${left.join(', ')}`);
    }
  } catch (error) {
    // A suite that leased nothing must not fail for it; one that did has said so by its tests.
    console.warn(`atdm: what killed workers held could not be reset: ${String(error)}`);
  } finally {
    await database.close();
  }
}
