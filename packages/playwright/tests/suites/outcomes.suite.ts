import { expect, test } from '../../src/index.js';

const SCENARIO = 'active_member_clean';

test.describe('with a scenario', () => {
  test.use({ atdmScenario: SCENARIO });

  test('passes', async ({ atdm }) => {
    expect(atdm.data['member_id']).toContain(atdm.testRunId);
    expect(JSON.stringify(atdm.run)).not.toContain('atdm_');
    console.log(atdm, atdm.run);
  });

  test('fails', async ({ atdm }) => {
    expect(atdm.run).toEqual({});
  });

  test('times out', async ({ atdm }) => {
    expect(atdm.testRunId).toBeTruthy();
    await new Promise(() => undefined);
  });

  test('has two actors', async ({ atdm }) => {
    const other = await atdm.lease<{ member_id: string }>(`healthcare/${SCENARIO}`, {}, { ttl: '5m' });
    expect(other.testRunId).not.toBe(atdm.testRunId);
    expect(other.data.member_id).not.toBe(atdm.data['member_id']);
    expect(atdm.runs).toHaveLength(2);
  });

  test('resets by itself', async ({ atdm }) => {
    const done = await atdm.reset();
    expect(done.status).toBe('cleaned');
    expect(done.deleted['member']).toBe(1);
    expect((await atdm.reset()).status).toBe('already_cleaned');
  });
});

test('leases nothing unless asked', async ({ atdm }) => {
  expect(atdm.runs).toEqual([]);
  expect(() => atdm.data).toThrow('atdmScenario');
});

test.describe('with constraints that nothing ready has', () => {
  test.use({ atdmScenario: SCENARIO, atdmConstraints: { member_status: 'active', coverage_type: 'epo' } });
  test('is refused', async ({ atdm }) => expect(atdm).toBeTruthy());
});

test.describe('with a constraint that there is not', () => {
  test.use({ atdmScenario: SCENARIO, atdmConstraints: { membr_status: 'active' } });
  test('is refused by name', async ({ atdm }) => expect(atdm).toBeTruthy());
});

test('with a misspelt scenario', async ({ atdm }) => {
  await atdm.lease('active_membr');
});

test('with a senseless ttl', async ({ atdm }) => {
  await atdm.lease(SCENARIO, {}, { ttl: 'for ever' });
});
