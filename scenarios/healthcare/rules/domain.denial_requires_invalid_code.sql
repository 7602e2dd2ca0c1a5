-- A denied claim has an invalid code or says why it was denied.
-- Reference codes and the test run's own count alike; a blank reason says nothing (requirement A-VAL-03).
SELECT c.claim_id,
       coalesce(NOT p.is_valid, false) OR coalesce(NOT d.is_valid, false)
         OR coalesce(trim(c.denial_reason) <> '', false) AS holds,
       c.procedure_code, c.diagnosis_code, c.denial_reason
FROM claim AS c
LEFT JOIN procedure_code AS p ON p.code = c.procedure_code
LEFT JOIN diagnosis_code AS d ON d.code = c.diagnosis_code
WHERE c.status = 'denied'
