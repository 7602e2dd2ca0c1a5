-- Every type that a baseline must keep to the bit, and every dependency that a restore meets.

CREATE SCHEMA zoo;
INSERT INTO atdm.domain (domain) VALUES ('zoo');
CREATE TYPE zoo.mood AS ENUM ('sad', 'o''k', 'very "happy"');
CREATE TYPE zoo.pair AS (a integer, b text, c numeric[]);
CREATE DOMAIN zoo.positive AS integer CHECK (VALUE > 0);
CREATE TYPE zoo.floats AS RANGE (subtype = float8);
CREATE TABLE zoo.everything (
    id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    small smallint, whole integer, big bigint, yes boolean,
    n numeric, n2 numeric(10,2), f4 real, f8 double precision, cash money,
    t text, v varchar(20), c char(5), q "char", nm name, bytes bytea,
    d date, tm time, tmz timetz, ts timestamp, tsz timestamptz, iv interval,
    j json, jb jsonb, x xml, u uuid, ip inet, net cidr, mac macaddr, mac8 macaddr8,
    b bit(5), vb bit varying, pt point, bx box, pth path, ply polygon, cir circle, ln line,
    r int4range, mr nummultirange, fr zoo.floats, tsr tstzrange,
    ints integer[], texts text[], nested integer[][], jbs jsonb[], moods zoo.mood[],
    mood zoo.mood, pair zoo.pair, pairs zoo.pair[], pos zoo.positive,
    tv tsvector, tq tsquery, rc regclass, o oid, lsn pg_lsn, jp jsonpath,
    "Nasty ""name"", with comma" text,
    twice bigint GENERATED ALWAYS AS (whole::bigint * 2) STORED
);
INSERT INTO zoo.everything (small, whole, big, yes, n, n2, f4, f8, cash, t, v, c, q, nm, bytes, d,
    tm, tmz, ts, tsz, iv, j, jb, x, u, ip, net, mac, mac8, b, vb, pt, bx, pth, ply, cir, ln, r, mr,
    fr, tsr, ints, texts, nested, jbs, moods, mood, pair, pairs, pos, tv, tq, rc, o, lsn, jp,
    "Nasty ""name"", with comma")
VALUES
  (-32768, -2147483648, -9223372036854775808, true, 'NaN', 'NaN', 'NaN', 'NaN', '-$1,234.56', '',
   '', '', '', '', '', '-infinity', '00:00', '23:59:59.999999-15:59', '-infinity', 'infinity',
   '-1 year +2 mons -3 days +04:05:06.7', 'null', 'null', '', gen_random_uuid(), '::1/128', '::/0',
   '08:00:2b:01:02:03', '08:00:2b:01:02:03:04:05', '10101', '', '(0,-0)', '((1,1),(0,0))',
   '[(0,0),(1,1)]', '((0,0),(1,1))', '<(0,0),1e300>', '{1,2,3}', 'empty', '{}', '[Infinity,NaN]',
   '(,)', '{}', '{}', '{}', '{}', '{}', 'sad', '(,,)', '{}', 1, '', '', 'zoo.everything', 0, '0/0',
   '$', ''),
  (32767, 2147483647 / 2, 9223372036854775807, false, '-Infinity', 99999999.99, 1e-45, 5e-324,
   '$92,233,720,368,547,758.07', E'line\nbreak\r\n tab\t quote" comma, backslash\\ \\.',
   'NULL', 'ab', '\377', 'pg_catalog', '\x00ff22', '4713-01-01 BC', '24:00', '00:00+15:59',
   '294276-12-31 23:59:59.999999', '4713-11-24 00:00:00+00 BC', /*endless*/'infinity',
   '{"a": 1, "a" : [1,2 , null]}', '{"z": "\u00e9\"", "a": [1.50, true, null]}',
   '<?xml version="1.0"?><a b="c">&lt;&amp;</a>', '00000000-0000-0000-0000-000000000000',
   '10.1.2.3/8', '10.0.0.0/8', 'ff:ff:ff:ff:ff:ff', 'ff:ff:ff:ff:ff:ff:ff:ff', '00000', '1',
   '(1e-300,NaN)', '((-1,-1),(-2,-2))', '((0,0),(1,1),(2,2))', '((0,0))', '<(1,2),3>',
   '{0,1,0}', '[1,10)', '{[1,2),[3.5,4.50)}', '(,0.1]', '[-infinity,"2026-01-01 00:00:00.000001+00"]',
   '[0:2]={1,NULL,3}', '{"",NULL,"NULL","a\"b","c\\d","{,}"," lead"}', '{{1,2},{3,NULL}}',
   '{"{\"a\": 1}",NULL,"null"}', '{"o''k","very \"happy\""}', 'very "happy"',
   '(1,"x,""y"" \\ (z)","{1.5,NULL,NaN}")', '{"(1,,)",NULL,"(,\"a b\",{})"}', 2147483647,
   'a:1A fat:2B,4C ''it''''s'':5', '''fat'' & ( ''rat'' | !''cat'' )', 'pg_class', 4294967295,
   'FFFFFFFF/FFFFFFFF', '$."a"[*]?(@ > 1)', E'\u2028 \U0001F600 e\u0301 \x7f'),
  (NULL, NULL, NULL, NULL, '12345678901234567890123456789012345678901234567890.000000000100',
   NULL, '-0', '-0', NULL, E'\\.', NULL, NULL, NULL, NULL, NULL, 'infinity', NULL, NULL, 'infinity',
   '-infinity', /*endless*/'-infinity', NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL,
   NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL,
   NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL);
CREATE TABLE zoo.only_null (a text);
INSERT INTO zoo.only_null VALUES (NULL), (''), (NULL), ('x');
CREATE TABLE zoo.no_columns ();
INSERT INTO zoo.no_columns SELECT FROM generate_series(1, 3);
CREATE TABLE zoo."Ta.ble/../ ""x""" (a integer);
INSERT INTO zoo."Ta.ble/../ ""x""" VALUES (1);
CREATE TABLE zoo.empty (a integer PRIMARY KEY, b text);

CREATE TABLE zoo.node (
    id serial PRIMARY KEY,
    parent integer REFERENCES zoo.node ON DELETE CASCADE,
    label text NOT NULL UNIQUE,
    changed integer NOT NULL DEFAULT 0);
CREATE TABLE zoo.egg (id integer PRIMARY KEY, hen integer);
CREATE TABLE zoo.hen (id integer PRIMARY KEY, egg integer NOT NULL
    REFERENCES zoo.egg DEFERRABLE INITIALLY DEFERRED);
ALTER TABLE zoo.egg ADD CONSTRAINT egg_hen FOREIGN KEY (hen) REFERENCES zoo.hen;
COMMENT ON CONSTRAINT egg_hen ON zoo.egg IS 'which came first';
INSERT INTO zoo.egg VALUES (1, NULL), (2, NULL);
INSERT INTO zoo.hen VALUES (1, 1), (2, 2);
UPDATE zoo.egg SET hen = 3 - id;
INSERT INTO zoo.node (parent, label)
    SELECT CASE WHEN g > 1 THEN g / 2 END, 'node ' || g FROM generate_series(1, 30000) AS g;
CREATE INDEX node_lower ON zoo.node (lower(label) text_pattern_ops) WHERE parent IS NOT NULL;
CREATE INDEX node_parent ON zoo.node (parent) INCLUDE (label);
COMMENT ON INDEX zoo.node_parent IS 'kept as it is';
CREATE VIEW zoo.grouped AS
    SELECT n.id, n.label, count(*) AS children FROM zoo.node AS n
    JOIN zoo.node AS c ON c.parent = n.id GROUP BY n.id;
CREATE FUNCTION zoo.meddle() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    NEW.changed := NEW.changed + 1;
    RETURN NEW;
END $$;
CREATE FUNCTION zoo.refuse() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    RAISE EXCEPTION 'not here';
END $$;
CREATE TRIGGER meddles BEFORE INSERT OR UPDATE ON zoo.node FOR EACH ROW EXECUTE FUNCTION zoo.meddle();
CREATE TRIGGER always BEFORE INSERT ON zoo.node FOR EACH ROW EXECUTE FUNCTION zoo.meddle();
ALTER TABLE zoo.node ENABLE ALWAYS TRIGGER always;
CREATE TRIGGER asleep BEFORE INSERT ON zoo.node FOR EACH ROW EXECUTE FUNCTION zoo.refuse();
ALTER TABLE zoo.node DISABLE TRIGGER asleep;
CREATE TRIGGER no_truncate BEFORE TRUNCATE ON zoo.node FOR EACH STATEMENT EXECUTE FUNCTION zoo.refuse();
CREATE TABLE zoo.measure (
    day date NOT NULL, node integer REFERENCES zoo.node, value numeric, PRIMARY KEY (day, node)
) PARTITION BY RANGE (day);
CREATE TABLE zoo.measure_1 PARTITION OF zoo.measure FOR VALUES FROM ('2026-01-01') TO ('2026-07-01');
CREATE TABLE zoo.measure_2 (value numeric, dropped text, node integer, day date NOT NULL);
ALTER TABLE zoo.measure_2 DROP COLUMN dropped;
ALTER TABLE zoo.measure_2 ALTER COLUMN node SET NOT NULL;
ALTER TABLE zoo.measure ATTACH PARTITION zoo.measure_2 FOR VALUES FROM ('2026-07-01') TO ('2027-01-01');
INSERT INTO zoo.measure SELECT date '2026-01-01' + g, 1 + g, g / 7.0 FROM generate_series(0, 300) AS g;
CREATE TABLE zoo.note (measure_day date, measure_node integer, text text,
    FOREIGN KEY (measure_day, measure_node) REFERENCES zoo.measure);
INSERT INTO zoo.note VALUES ('2026-01-01', 1, 'first');
CREATE TABLE zoo.animal (name text);
CREATE TABLE zoo.cat (lives integer DEFAULT 9) INHERITS (zoo.animal);
INSERT INTO zoo.animal VALUES ('some animal');
INSERT INTO zoo.cat VALUES ('a cat', 7);
CREATE TABLE zoo.booking (room integer, during int4range,
    CONSTRAINT no_overlap EXCLUDE USING gist (during WITH &&));
INSERT INTO zoo.booking SELECT 1, int4range(g * 2, g * 2 + 1) FROM generate_series(1, 50) AS g;
CREATE SEQUENCE zoo.lonely INCREMENT -3 MAXVALUE 100 START 50;
SELECT nextval('zoo.lonely'), nextval('zoo.lonely');
CREATE SEQUENCE zoo.untouched;
CREATE SCHEMA elsewhere;
CREATE SEQUENCE elsewhere.shared;
CREATE TABLE zoo.uses_shared (id bigint DEFAULT nextval('elsewhere.shared'));
INSERT INTO zoo.uses_shared SELECT FROM generate_series(1, 5);
CREATE TABLE elsewhere.visitor (node integer CONSTRAINT visits REFERENCES zoo.node, name text);
INSERT INTO elsewhere.visitor VALUES (1, 'guest');
