-- The Luhn checksum of a text of ASCII digits; false for any other text. Ten digits at a time from the
-- right; zeros before a number do not change its sum. It is run for every row of every load, so it
-- makes few statements, and no settings of its own (built-in functions come first on any path).
CREATE OR REPLACE FUNCTION atdm.luhn_holds(digits text) RETURNS boolean
LANGUAGE plpgsql IMMUTABLE STRICT PARALLEL SAFE
AS $$
DECLARE
    -- What each digit counts when it is doubled: its own digits added up.
    doubled CONSTANT bytea := '\x00020406080103050709';
    bytes bytea;
    total bigint := 0;
BEGIN
    IF digits !~ '^[0-9]+$' THEN
        RETURN false;
    END IF;
    LOOP
        bytes := lpad(right(digits, 10), 10, '0')::bytea;
        total := total - 5 * 48
            + get_byte(doubled, get_byte(bytes, 0) - 48) + get_byte(bytes, 1)
            + get_byte(doubled, get_byte(bytes, 2) - 48) + get_byte(bytes, 3)
            + get_byte(doubled, get_byte(bytes, 4) - 48) + get_byte(bytes, 5)
            + get_byte(doubled, get_byte(bytes, 6) - 48) + get_byte(bytes, 7)
            + get_byte(doubled, get_byte(bytes, 8) - 48) + get_byte(bytes, 9);
        EXIT WHEN length(digits) <= 10;
        digits := left(digits, -10);
    END LOOP;
    RETURN total % 10 = 0;
END;
$$;
