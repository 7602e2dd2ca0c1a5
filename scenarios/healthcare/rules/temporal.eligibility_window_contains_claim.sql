-- A denied or pending claim was submitted while its member's eligibility was in force, or the eligibility is expired.
-- Paid claims are never judged; both ends of the window belong to it; days are UTC days (requirement A-VAL-04).
SELECT c.claim_id,
       bool_or(e.status = 'expired'
               OR CAST(c.submitted_at AS DATE) BETWEEN e.effective_from AND e.effective_to) AS holds
FROM claim AS c JOIN eligibility AS e ON e.member_id = c.member_id
WHERE c.status IN ('denied', 'pending')
GROUP BY c.claim_id
