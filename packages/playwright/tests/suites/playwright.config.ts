import { fileURLToPath } from 'node:url';
import { defineConfig } from '@playwright/test';
import type { AtdmOptions } from '../../src/index.js';

export default defineConfig<AtdmOptions>({
  testDir: '.',
  testMatch: '*.suite.ts',
  timeout: 3_000,
  outputDir: process.env['SUITE_OUTPUT'] ?? 'test-results',
  globalSetup: fileURLToPath(new URL('../../src/global-setup.ts', import.meta.url)),
  use: { atdmWhenNoneReady: 'fail', trace: 'on' },
});
