import { expect, test } from 'atdm-playwright';

test.describe('a denied claim', () => {
  test.use({ atdmScenario: 'claim_denial_active_member', atdmConstraints: { denial_reason: 'not_covered' } });

  test('is found, and appealed', async ({ page, atdm }) => {
    await page.goto('/');
    await page.getByLabel('Member id').fill(atdm.data['member_id']);
    await page.getByRole('button', { name: 'Look up' }).click();
    await page.getByRole('link', { name: atdm.data['denied_claim_id'] }).click();

    await expect(page.getByTestId('status')).toHaveText('denied');
    await expect(page.getByText('not covered')).toBeVisible();
    await page.getByLabel('Why the denial is wrong').fill('The plan covers it.');
    await page.getByRole('button', { name: 'File appeal' }).click();
    await expect(page.getByLabel('Appeals')).toHaveText('The plan covers it. (received)');
  });

  test('takes what was written about it along', async ({ page, atdm }) => {
    await page.goto(`/claims/${atdm.data['claim_id']}`);
    await page.getByLabel('New note').fill('called the member');
    await page.getByRole('button', { name: 'Add note' }).click();
    await page.getByLabel('Why the denial is wrong').fill('The plan covers it.');
    await page.getByRole('button', { name: 'File appeal' }).click();
    await expect(page.getByLabel('Appeals').getByRole('listitem')).toHaveCount(1);

    const done = await atdm.reset();

    expect(done.adopted).toEqual({
      'claims_app.appeal_step': 1,
      'claims_app.claim_appeal': 1,
      'claims_app.claim_note': 1,
    });
    expect((await page.goto(`/claims/${atdm.data['claim_id']}`))?.status()).toBe(404);
  });

  test('leaves nothing either when its test fails', async ({ page, atdm }) => {
    test.fail(true, 'fails on purpose: its data goes all the same');
    await page.goto(`/claims/${atdm.data['claim_id']}`);
    await page.getByLabel('New note').fill('the last words of a test');
    await page.getByRole('button', { name: 'Add note' }).click();
    await expect(page.getByTestId('status')).toHaveText('paid', { timeout: 100 });
  });
});

test.describe('a member without denials', () => {
  test.use({ atdmScenario: 'active_member_clean' });

  test('submits a claim', async ({ page, atdm }) => {
    await page.goto(`/members/${atdm.data['member_id']}`);
    await page.getByLabel('Provider id').fill(atdm.data['provider_id']);
    await page.getByLabel('Procedure').selectOption('99213');
    await page.getByRole('button', { name: 'Submit claim' }).click();
    await expect(page.getByTestId('status')).toHaveText('pending');
  });

  test('does not see the claims of somebody else', async ({ page, atdm }) => {
    const other = await atdm.lease<{ member_id: string; claim_id: string }>('claim_denial_active_member');
    await page.goto(`/members/${atdm.data['member_id']}`);
    await expect(page.getByRole('link', { name: other.data.claim_id })).toHaveCount(0);
    await page.goto(`/members/${other.data.member_id}`);
    await expect(page.getByRole('link', { name: other.data.claim_id })).toHaveCount(1);
  });
});
