-- An inactive member has no active eligibility.
-- The reverse is allowed: an active member may have an inactive or expired window (requirement A-VAL-01).
SELECT e.eligibility_id, NOT (m.status = 'inactive' AND e.status = 'active') AS holds
FROM eligibility AS e JOIN member AS m ON m.member_id = e.member_id
