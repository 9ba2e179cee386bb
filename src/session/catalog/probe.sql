WITH size AS MATERIALIZED (
    SELECT pg_catalog.count(*) OPERATOR(pg_catalog.<=) 50000 AS fits
    FROM pg_catalog.pg_class
    WHERE relkind OPERATOR(pg_catalog.=) ANY ('{r,p,v,m,f,S}'::pg_catalog."char"[])
), stateful AS MATERIALIZED (
    -- Built-in functions that may leave something behind, and how a stored expression refers to them.
    SELECT oid, ':funcid ' OPERATOR(pg_catalog.||) oid::pg_catalog.text OPERATOR(pg_catalog.||) ' ' AS mark
    FROM pg_catalog.pg_proc
    WHERE oid OPERATOR(pg_catalog.<) '16384'::pg_catalog.oid
        AND (provolatile OPERATOR(pg_catalog.=) 'v' OR proname::pg_catalog.text OPERATOR(pg_catalog.~) '_to_xml')
        AND NOT proname OPERATOR(pg_catalog.=) ANY (ARRAY[
            'clock_timestamp', 'currval', 'gen_random_uuid', 'lastval', 'pg_advisory_xact_lock', 'pg_notify',
            'pg_sleep', 'random', 'random_normal', 'timeofday', 'uuidv4', 'uuidv7']::pg_catalog.name[])
), pattern AS MATERIALIZED (
    SELECT ':funcid (' OPERATOR(pg_catalog.||)
        pg_catalog.string_agg(oid::pg_catalog.text, '|') OPERATOR(pg_catalog.||) ') ' AS any_stateful
    FROM stateful
    WHERE NOT oid OPERATOR(pg_catalog.=) 'pg_catalog.nextval(pg_catalog.regclass)'::pg_catalog.regprocedure::pg_catalog.oid
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
    CASE
        WHEN u.objid IS NOT NULL THEN 'rw'
        WHEN d.adbin::pg_catalog.text OPERATOR(pg_catalog.~) (SELECT any_stateful FROM pattern) THEN 'rw'
        ELSE 's'
    END
FROM pg_catalog.pg_attrdef d
LEFT JOIN uses u ON u.classid OPERATOR(pg_catalog.=) 'pg_catalog.pg_attrdef'::pg_catalog.regclass
    AND u.objid OPERATOR(pg_catalog.=) d.oid
WHERE (SELECT fits FROM size)
    AND (u.objid IS NOT NULL OR d.adbin::pg_catalog.text OPERATOR(pg_catalog.~) (SELECT any_stateful FROM pattern)
        OR pg_catalog.strpos(d.adbin::pg_catalog.text, (SELECT mark FROM stateful WHERE oid OPERATOR(pg_catalog.=)
            'pg_catalog.nextval(pg_catalog.regclass)'::pg_catalog.regprocedure::pg_catalog.oid))
            OPERATOR(pg_catalog.>) 0)

UNION ALL
-- Check constraints, of a domain where there is no relation.
SELECT CASE WHEN c.conrelid OPERATOR(pg_catalog.=) '0'::pg_catalog.oid THEN 'dirty' ELSE 'mark' END,
    'constraint of a domain', c.conrelid::pg_catalog.text, 'rw'
FROM pg_catalog.pg_constraint c
LEFT JOIN uses u ON u.classid OPERATOR(pg_catalog.=) 'pg_catalog.pg_constraint'::pg_catalog.regclass
    AND u.objid OPERATOR(pg_catalog.=) c.oid
WHERE (SELECT fits FROM size)
    AND (u.objid IS NOT NULL
        OR c.contype OPERATOR(pg_catalog.=) 'c' AND (
            c.conbin::pg_catalog.text OPERATOR(pg_catalog.~) (SELECT any_stateful FROM pattern)
            OR c.conbin::pg_catalog.text OPERATOR(pg_catalog.~) (SELECT pg_catalog.string_agg(mark, '|') FROM stateful
                WHERE oid OPERATOR(pg_catalog.=)
                    'pg_catalog.nextval(pg_catalog.regclass)'::pg_catalog.regprocedure::pg_catalog.oid)))

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
SELECT 'dirty', 'default of a domain', '', ''
FROM pg_catalog.pg_type t
WHERE t.typdefaultbin IS NOT NULL AND t.oid OPERATOR(pg_catalog.>=) '16384'::pg_catalog.oid
    AND t.typdefaultbin::pg_catalog.text OPERATOR(pg_catalog.~) (
        SELECT pg_catalog.string_agg(mark, '|') FROM stateful)
