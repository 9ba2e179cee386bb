WITH size AS MATERIALIZED (
    SELECT pg_catalog.count(*) OPERATOR(pg_catalog.<=) 50000 AS fits
    FROM pg_catalog.pg_class
    WHERE relkind OPERATOR(pg_catalog.=) ANY ('{r,p,v,m,f,S}'::pg_catalog."char"[])
), stateful AS MATERIALIZED (
    -- Built-in functions that may leave something behind.
    SELECT oid, proname OPERATOR(pg_catalog.=) 'nextval' AS sequence
    FROM pg_catalog.pg_proc
    WHERE oid OPERATOR(pg_catalog.<) '16384'::pg_catalog.oid
        AND (provolatile OPERATOR(pg_catalog.=) 'v' OR proname::pg_catalog.text OPERATOR(pg_catalog.~) '_to_xml')
        AND NOT proname OPERATOR(pg_catalog.=) ANY (ARRAY[
            'clock_timestamp', 'currval', 'gen_random_uuid', 'lastval', 'pg_advisory_xact_lock', 'pg_notify',
            'pg_sleep', 'random', 'random_normal', 'timeofday', 'uuidv4', 'uuidv7']::pg_catalog.name[])
), expressions AS (
    SELECT 'pg_catalog.pg_attrdef'::pg_catalog.regclass::pg_catalog.oid AS classid, oid AS objid,
        adbin::pg_catalog.text AS tree
    FROM pg_catalog.pg_attrdef WHERE (SELECT fits FROM size)
    UNION ALL
    SELECT 'pg_catalog.pg_constraint'::pg_catalog.regclass::pg_catalog.oid, oid, conbin::pg_catalog.text
    FROM pg_catalog.pg_constraint WHERE contype OPERATOR(pg_catalog.=) 'c' AND (SELECT fits FROM size)
    UNION ALL
    SELECT 'pg_catalog.pg_type'::pg_catalog.regclass::pg_catalog.oid, oid, typdefaultbin::pg_catalog.text
    FROM pg_catalog.pg_type WHERE typdefaultbin IS NOT NULL AND oid OPERATOR(pg_catalog.>=) '16384'::pg_catalog.oid
), calls AS MATERIALIZED (
    -- Stored expressions that call one of those. In the text of a tree a call is `:funcid` and the oid.
    SELECT e.classid, e.objid, pg_catalog.bool_and(s.sequence) AS only_sequence
    FROM expressions e
    CROSS JOIN LATERAL pg_catalog.regexp_matches(e.tree, ':funcid ([0-9]+)', 'g') AS call (parts)
    JOIN stateful s ON s.oid OPERATOR(pg_catalog.=) call.parts[1]::pg_catalog.oid
    WHERE pg_catalog.strpos(e.tree, ':funcid ') OPERATOR(pg_catalog.>) 0
    GROUP BY e.classid, e.objid
), untrusted_plain AS MATERIALIZED (
    -- User-defined functions other than C or internal code that says it is not volatile. Functions with an argument of
    -- type internal cannot be called from SQL; those of uuid-ossp and pgcrypto are volatile because they are random.
    SELECT oid
    FROM pg_catalog.pg_proc
    WHERE oid OPERATOR(pg_catalog.>=) '16384'::pg_catalog.oid
        AND prokind OPERATOR(pg_catalog.<>) 'a'
        AND NOT (
            prolang OPERATOR(pg_catalog.=) ANY ('{12,13}'::pg_catalog.oid[])
            AND (provolatile OPERATOR(pg_catalog.<>) 'v'
                OR '2281'::pg_catalog.oid OPERATOR(pg_catalog.=) ANY (proargtypes::pg_catalog.oid[])
                OR (prolang OPERATOR(pg_catalog.=) '13'::pg_catalog.oid
                    AND proname OPERATOR(pg_catalog.=) ANY (ARRAY['uuid_generate_v1', 'uuid_generate_v1mc',
                        'uuid_generate_v4', 'gen_random_uuid', 'gen_random_bytes', 'gen_salt']::pg_catalog.name[]))))
), untrusted AS MATERIALIZED (
    SELECT oid FROM untrusted_plain
    UNION ALL
    -- An aggregate is what its functions are.
    SELECT a.aggfnoid::pg_catalog.oid
    FROM pg_catalog.pg_aggregate a
    WHERE a.aggfnoid::pg_catalog.oid OPERATOR(pg_catalog.>=) '16384'::pg_catalog.oid
        AND EXISTS (
            SELECT FROM (SELECT oid FROM untrusted_plain UNION ALL SELECT oid FROM stateful) bad
            WHERE bad.oid OPERATOR(pg_catalog.=) ANY (ARRAY[a.aggtransfn, a.aggfinalfn, a.aggcombinefn,
                a.aggserialfn, a.aggdeserialfn, a.aggmtransfn, a.aggminvtransfn, a.aggmfinalfn]::pg_catalog.oid[]))
), uses AS MATERIALIZED (
    SELECT d.classid, d.objid
    FROM pg_catalog.pg_depend d JOIN untrusted u ON u.oid OPERATOR(pg_catalog.=) d.refobjid
    WHERE d.refclassid OPERATOR(pg_catalog.=) 'pg_catalog.pg_proc'::pg_catalog.regclass
        AND NOT d.classid OPERATOR(pg_catalog.=) ANY (ARRAY['pg_catalog.pg_proc', 'pg_catalog.pg_trigger',
            'pg_catalog.pg_event_trigger', 'pg_catalog.pg_rewrite', 'pg_catalog.pg_policy',
            'pg_catalog.pg_statistic_ext']::pg_catalog.regclass[]::pg_catalog.oid[])
)
SELECT 'size' AS kind, CASE WHEN fits THEN 'fits' ELSE 'too many' END AS name, '' AS id, '' AS flags FROM size

UNION ALL
SELECT 'relation', c.relname::pg_catalog.text, c.oid::pg_catalog.text,
    CASE
        WHEN c.oid OPERATOR(pg_catalog.<) '16384'::pg_catalog.oid THEN 'w'
        WHEN c.relkind OPERATOR(pg_catalog.=) ANY ('{m,S}'::pg_catalog."char"[]) THEN 'w'
        WHEN c.relkind OPERATOR(pg_catalog.=) ANY ('{v,f}'::pg_catalog."char"[]) OR c.relrowsecurity OR c.relhasrules
            THEN 'rw'
        ELSE ''
    END
FROM pg_catalog.pg_class c
WHERE c.relkind OPERATOR(pg_catalog.=) ANY ('{r,p,v,m,f,S}'::pg_catalog."char"[]) AND (SELECT fits FROM size)

UNION ALL
SELECT 'mark', '', t.tgrelid::pg_catalog.text, 'w'
FROM pg_catalog.pg_trigger t
WHERE (NOT t.tgisinternal OR t.tgfoid OPERATOR(pg_catalog.>=) '16384'::pg_catalog.oid) AND (SELECT fits FROM size)

UNION ALL
SELECT 'mark', '', a.attrelid::pg_catalog.text, 's'
FROM pg_catalog.pg_attribute a
WHERE a.attidentity OPERATOR(pg_catalog.<>) '' AND (SELECT fits FROM size)

UNION ALL
SELECT 'mark', '', d.adrelid::pg_catalog.text,
    CASE WHEN f.only_sequence THEN 's' WHEN a.attgenerated OPERATOR(pg_catalog.=) '' THEN 'w' ELSE 'rw' END
FROM (
    SELECT classid, objid, only_sequence FROM calls
    UNION ALL
    SELECT classid, objid, false FROM uses
) f
JOIN pg_catalog.pg_attrdef d ON d.oid OPERATOR(pg_catalog.=) f.objid
JOIN pg_catalog.pg_attribute a ON a.attrelid OPERATOR(pg_catalog.=) d.adrelid
    AND a.attnum OPERATOR(pg_catalog.=) d.adnum
WHERE f.classid OPERATOR(pg_catalog.=) 'pg_catalog.pg_attrdef'::pg_catalog.regclass::pg_catalog.oid
    AND (SELECT fits FROM size)

UNION ALL
-- Check constraints, of a domain where there is no relation.
SELECT CASE WHEN c.conrelid OPERATOR(pg_catalog.=) '0'::pg_catalog.oid THEN 'dirty' ELSE 'mark' END,
    'check constraint', c.conrelid::pg_catalog.text, 'rw'
FROM (SELECT classid, objid FROM calls UNION ALL SELECT classid, objid FROM uses) f
JOIN pg_catalog.pg_constraint c ON c.oid OPERATOR(pg_catalog.=) f.objid
WHERE f.classid OPERATOR(pg_catalog.=) 'pg_catalog.pg_constraint'::pg_catalog.regclass::pg_catalog.oid
    AND (SELECT fits FROM size)

UNION ALL
-- Indexes and partition keys.
SELECT 'mark', '', COALESCE(i.indrelid, u.objid)::pg_catalog.text, 'rw'
FROM uses u LEFT JOIN pg_catalog.pg_index i ON i.indexrelid OPERATOR(pg_catalog.=) u.objid
WHERE u.classid OPERATOR(pg_catalog.=) 'pg_catalog.pg_class'::pg_catalog.regclass AND (SELECT fits FROM size)

UNION ALL
SELECT 'inherits', '', i.inhparent::pg_catalog.text, i.inhrelid::pg_catalog.text
FROM pg_catalog.pg_inherits i
WHERE (SELECT fits FROM size)

UNION ALL
-- A change of the referenced relation that changes the referencing one.
SELECT 'cascade', '', c.confrelid::pg_catalog.text, c.conrelid::pg_catalog.text
FROM pg_catalog.pg_constraint c
WHERE c.contype OPERATOR(pg_catalog.=) 'f' AND (SELECT fits FROM size)
    AND (c.confdeltype OPERATOR(pg_catalog.=) ANY ('{c,n}'::pg_catalog."char"[])
        OR c.confupdtype OPERATOR(pg_catalog.=) ANY ('{c,n}'::pg_catalog."char"[]))

UNION ALL
SELECT 'mark', '', c.confrelid::pg_catalog.text, 'w'
FROM pg_catalog.pg_constraint c
WHERE c.contype OPERATOR(pg_catalog.=) 'f' AND (SELECT fits FROM size)
    AND (c.confdeltype OPERATOR(pg_catalog.=) 'd' OR c.confupdtype OPERATOR(pg_catalog.=) 'd')

UNION ALL
-- Names of functions that shadow others, with an `a` if `x.name` can call one.
SELECT 'function', p.proname::pg_catalog.text, '',
    CASE WHEN pg_catalog.bool_or(p.pronargs OPERATOR(pg_catalog.>) 0::pg_catalog.int2
            AND (p.pronargs OPERATOR(pg_catalog.-) p.pronargdefaults) OPERATOR(pg_catalog.<=) 1) THEN 'a' ELSE '' END
FROM pg_catalog.pg_proc p JOIN untrusted u ON u.oid OPERATOR(pg_catalog.=) p.oid
WHERE (SELECT fits FROM size)
GROUP BY p.proname

UNION ALL
SELECT DISTINCT 'type', t.typname::pg_catalog.text, '', ''
FROM pg_catalog.pg_type t
WHERE t.oid OPERATOR(pg_catalog.>=) '16384'::pg_catalog.oid AND t.typcategory OPERATOR(pg_catalog.<>) 'A'
    AND t.typtype OPERATOR(pg_catalog.=) ANY ('{b,d,e,m,r}'::pg_catalog."char"[]) AND (SELECT fits FROM size)

UNION ALL
-- Operators, casts, types, operator classes: these apply without being named.
SELECT DISTINCT 'dirty', u.classid::pg_catalog.regclass::pg_catalog.text, '', ''
FROM uses u
WHERE NOT u.classid OPERATOR(pg_catalog.=) ANY (ARRAY['pg_catalog.pg_attrdef', 'pg_catalog.pg_constraint',
    'pg_catalog.pg_class']::pg_catalog.regclass[]::pg_catalog.oid[])

UNION ALL
SELECT 'dirty', 'operator', '', ''
FROM pg_catalog.pg_operator o JOIN stateful s ON s.oid OPERATOR(pg_catalog.=) o.oprcode::pg_catalog.oid
WHERE o.oid OPERATOR(pg_catalog.>=) '16384'::pg_catalog.oid

UNION ALL
SELECT 'dirty', 'support function', '', ''
FROM pg_catalog.pg_amproc a JOIN stateful s ON s.oid OPERATOR(pg_catalog.=) a.amproc::pg_catalog.oid
WHERE a.oid OPERATOR(pg_catalog.>=) '16384'::pg_catalog.oid

UNION ALL
SELECT 'dirty', 'cast', '', ''
FROM pg_catalog.pg_cast c
LEFT JOIN stateful s ON s.oid OPERATOR(pg_catalog.=) c.castfunc
LEFT JOIN pg_catalog.pg_type t ON t.oid OPERATOR(pg_catalog.=) c.castsource
WHERE c.oid OPERATOR(pg_catalog.>=) '16384'::pg_catalog.oid
    AND (s.oid IS NOT NULL OR t.typtype OPERATOR(pg_catalog.=) 'c')

UNION ALL
SELECT DISTINCT 'dirty', 'default of a domain', '', ''
FROM calls
WHERE classid OPERATOR(pg_catalog.=) 'pg_catalog.pg_type'::pg_catalog.regclass::pg_catalog.oid
