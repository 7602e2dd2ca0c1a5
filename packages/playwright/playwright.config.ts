import { defineConfig } from '@playwright/test';

// Each test runs suites of its own as other processes: what is tested happens around a test.
export default defineConfig({
  testDir: 'tests',
  testMatch: '*.spec.ts',
  timeout: 60_000,
  workers: 1,
  reporter: 'list',
});
