import { existsSync } from 'node:fs';
import { createRequire } from 'node:module';
import { defineConfig } from '@playwright/test';
import type { AtdmOptions } from 'atdm-playwright';

const chromium = process.env['CHROMIUM_PATH'] ?? ['/usr/bin/chromium', '/usr/bin/chromium-browser'].find(existsSync);
if (!chromium) throw new Error('no Chromium: install it, or name it in CHROMIUM_PATH');
if (!process.env['CLAIMS_APP_URL']) throw new Error('CLAIMS_APP_URL is not set: run examples/run');

export default defineConfig<AtdmOptions>({
  testDir: 'tests',
  timeout: 30_000,
  workers: 2,
  fullyParallel: true,
  forbidOnly: true,
  reporter: [['list'], ['json', { outputFile: process.env['CLAIMS_APP_REPORT'] ?? 'test-results/report.json' }]],
  // What a killed worker holds is given back when the suite ends.
  globalSetup: createRequire(import.meta.url).resolve('atdm-playwright/global-setup'),
  use: {
    baseURL: process.env['CLAIMS_APP_URL'],
    atdmTtl: '30m',
    trace: 'retain-on-failure',
    launchOptions: {
      executablePath: chromium,
      args: [
        '--disable-background-networking',
        '--disable-component-update',
        '--disable-gpu',
        '--disable-quic',
        '--disable-sync',
        '--no-first-run',
        // Root may not use its sandbox, which is what a container's user is.
        ...(process.getuid?.() === 0 ? ['--no-sandbox'] : []),
      ],
    },
  },
});
