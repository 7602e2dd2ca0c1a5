-- A claim is for a member of its own test run.
-- The outer join keeps a claim whose member is missing, so that it is judged (requirement A-VAL-02).
SELECT c.claim_id, m.member_id IS NOT NULL AS holds
FROM claim AS c
LEFT JOIN member AS m
  ON m.member_id = c.member_id AND m.test_run_id IS NOT DISTINCT FROM c.test_run_id
