-- name: migrations
SELECT version, name FROM schema_migrations ORDER BY version

-- name: items
-- The whole schema of the store, one item per row, from the catalogs: its name and its definition. Every session may
-- read them. Partitions share one name without their date; their columns, constraints and indexes are those of their
-- parent.
WITH ours AS (
    -- Tables and views, without those of an extension.
    SELECT c.oid, c.relname, c.relkind, c.relowner, c.relacl, c.relrowsecurity, c.relforcerowsecurity, c.relispartition,
           c.relpersistence, c.reloptions, regexp_replace(c.relname, '_\d{8}$', '_*') AS name,
           CASE c.relkind WHEN 'v' THEN 'view' WHEN 'm' THEN 'materialized view' WHEN 'f' THEN 'foreign table'
                          WHEN 'S' THEN 'sequence' ELSE 'table' END AS what
    FROM pg_class c
    WHERE c.relnamespace = 'public'::regnamespace AND c.relkind IN ('r', 'p', 'v', 'm', 'f', 'S')
      AND NOT EXISTS (SELECT FROM pg_depend d
                      WHERE d.classid = 'pg_class'::regclass AND d.objid = c.oid AND d.deptype = 'e')
), functions AS (
    SELECT p.oid, p.proowner, p.proacl, p.prokind, p.oid::regprocedure::text AS name FROM pg_proc p
    WHERE p.pronamespace = 'public'::regnamespace
      AND NOT EXISTS (SELECT FROM pg_depend d
                      WHERE d.classid = 'pg_proc'::regclass AND d.objid = p.oid AND d.deptype = 'e')
), roles AS (
    SELECT oid, rolname FROM pg_roles WHERE rolname IN ('cellbook_owner', 'cellbook_cell', 'cellbook_auditor')
), rights AS (
    -- An owner has all rights. An operator may let roles other than the cell's read.
    SELECT r.name, g.privilege_type, g.is_grantable, g.grantee
    FROM (
        SELECT name, relowner AS owner, coalesce(relacl, acldefault(CASE relkind WHEN 'S' THEN 's' ELSE 'r' END::"char",
                                                                    relowner)) AS acl FROM ours
        UNION ALL
        SELECT format('%s.%s', o.name, a.attname), o.relowner, a.attacl
        FROM ours o JOIN pg_attribute a ON a.attrelid = o.oid WHERE a.attacl IS NOT NULL AND NOT a.attisdropped
        UNION ALL
        SELECT 'function ' || name, proowner, coalesce(proacl, acldefault('f', proowner)) FROM functions
        UNION ALL
        SELECT 'schema public', nspowner, coalesce(nspacl, acldefault('n', nspowner))
        FROM pg_namespace WHERE nspname = 'public'
    ) r, aclexplode(r.acl) g
    WHERE g.grantee <> r.owner
      AND NOT (r.name = 'schema public'
               AND (g.privilege_type = 'USAGE' OR g.grantee = (SELECT oid FROM roles WHERE rolname = 'cellbook_owner')))
      AND (g.privilege_type NOT IN ('SELECT', 'USAGE') OR g.grantee = 0 OR g.grantee IN (SELECT oid FROM roles))
)
SELECT DISTINCT item, definition FROM (
    SELECT format('%s %s', what, name) AS item,
           concat_ws(', ', 'owner ' || relowner::regrole,
                     CASE relpersistence WHEN 'p' THEN NULL ELSE 'not logged' END,
                     CASE WHEN relrowsecurity THEN 'row level security' END,
                     CASE WHEN relforcerowsecurity THEN 'forced' END,
                     CASE WHEN relkind IN ('v', 'm') THEN concat_ws(' ', reloptions::text, pg_get_viewdef(oid)) END
           ) AS definition
    FROM ours
    UNION ALL
    SELECT format('column %s.%s', o.name, a.attname),
           concat_ws(' ', format_type(a.atttypid, a.atttypmod), CASE WHEN a.attnotnull THEN 'NOT NULL' END,
                     CASE WHEN a.attcollation <> t.typcollation THEN 'COLLATE ' || a.attcollation::regcollation END,
                     CASE WHEN a.attgenerated <> '' THEN 'GENERATED ' || a.attgenerated::text END,
                     CASE WHEN a.attidentity <> '' THEN 'IDENTITY ' || a.attidentity::text END,
                     'DEFAULT ' || pg_get_expr(d.adbin, d.adrelid))
    FROM ours o JOIN pg_attribute a ON a.attrelid = o.oid AND a.attnum > 0 AND NOT a.attisdropped
    JOIN pg_type t ON t.oid = a.atttypid
    LEFT JOIN pg_attrdef d ON d.adrelid = o.oid AND d.adnum = a.attnum
    WHERE o.relkind <> 'v' AND NOT o.relispartition
    UNION ALL
    -- Since version 18 NOT NULL is a constraint, too: it is listed with the columns.
    SELECT format('constraint %s on %s', k.conname, o.name),
           concat_ws(' ', pg_get_constraintdef(k.oid), CASE WHEN NOT k.convalidated THEN '(not checked)' END)
    FROM ours o JOIN pg_constraint k ON k.conrelid = o.oid WHERE k.contype <> 'n' AND NOT o.relispartition
    UNION ALL
    SELECT format('index %s on %s', i.indexrelid::regclass, o.name),
           concat_ws(' ', pg_get_indexdef(i.indexrelid),
                     CASE WHEN NOT i.indisvalid THEN '(invalid)' END)
    FROM ours o JOIN pg_index i ON i.indrelid = o.oid WHERE NOT o.relispartition
    UNION ALL
    SELECT format('trigger %s on %s', t.tgname, o.name),
           concat_ws(' ', CASE t.tgenabled WHEN 'A' THEN 'always' WHEN 'O' THEN 'enabled' WHEN 'R' THEN 'on replicas'
                                           ELSE 'DISABLED' END, pg_get_triggerdef(t.oid))
    FROM ours o JOIN pg_trigger t ON t.tgrelid = o.oid WHERE NOT t.tgisinternal
    UNION ALL
    SELECT format('rule %s on %s', r.rulename, o.name), pg_get_ruledef(r.oid)
    FROM ours o JOIN pg_rewrite r ON r.ev_class = o.oid WHERE r.rulename <> '_RETURN'
    UNION ALL
    SELECT format('row policy %s on %s', p.polname, o.name),
           concat_ws(' ', p.polcmd::text, p.polpermissive, p.polroles::regrole[],
                     pg_get_expr(p.polqual, p.polrelid), pg_get_expr(p.polwithcheck, p.polrelid))
    FROM ours o JOIN pg_policy p ON p.polrelid = o.oid
    UNION ALL
    -- Rows of a child, in any schema, are read with those of its parent.
    SELECT format('child %s of %s', regexp_replace(i.inhrelid::regclass::text, '_\d{8}$', '_*'), o.name),
           'of its parent'
    FROM ours o JOIN pg_inherits i ON i.inhparent = o.oid
    UNION ALL
    SELECT 'function ' || name, concat_ws(', ', 'owner ' || proowner::regrole,
           CASE WHEN prokind IN ('f', 'p') THEN pg_get_functiondef(oid) ELSE 'of kind ' || prokind::text END)
    FROM functions
    UNION ALL
    SELECT format('grant %s on %s to %s', privilege_type, name,
                  CASE grantee WHEN 0 THEN 'PUBLIC' ELSE grantee::regrole::text END),
           CASE WHEN is_grantable THEN 'granted, to be given on' ELSE 'granted' END
    FROM rights
    UNION ALL
    SELECT 'role ' || rolname, concat_ws(' ', CASE WHEN rolsuper THEN 'SUPERUSER' END,
           CASE WHEN rolbypassrls THEN 'BYPASSRLS' END, CASE WHEN rolcreaterole THEN 'CREATEROLE' END,
           CASE WHEN rolreplication THEN 'REPLICATION' END)
    FROM pg_roles WHERE oid IN (SELECT oid FROM roles)
    UNION ALL
    SELECT format('role %s in %s', member::regrole, roleid::regrole), 'member'
    FROM pg_auth_members WHERE member IN (SELECT oid FROM roles)
    UNION ALL
    -- These redirect sessions to other tables, or bypass triggers.
    SELECT format('setting %s of %s in %s', split_part(s.setting, '=', 1),
                  CASE d.setrole WHEN 0 THEN 'all roles' ELSE d.setrole::regrole::text END,
                  CASE d.setdatabase WHEN 0 THEN 'all databases' ELSE 'this database' END), s.setting
    FROM pg_db_role_setting d, unnest(d.setconfig) AS s (setting)
    WHERE (d.setdatabase = 0 OR d.setdatabase = (SELECT oid FROM pg_database WHERE datname = current_database()))
      AND split_part(s.setting, '=', 1) IN ('search_path', 'session_replication_role', 'row_security', 'role',
                                            'session_preload_libraries', 'local_preload_libraries')
) items
ORDER BY item, definition
