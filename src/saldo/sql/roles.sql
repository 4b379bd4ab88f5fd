-- The roles of the functions, with bounds on how long each may wait, work and idle. Run before the
-- migrations of both schemas, by a role that may create roles; safe to run again. They cannot log
-- in until the deployment says how (a password, IAM, or trust on a laptop's socket).
DO $$
DECLARE
    name text;
BEGIN
    FOREACH name IN ARRAY ARRAY['saldo_record', 'saldo_project', 'saldo_query', 'saldo_operate']
    LOOP
        IF NOT EXISTS (SELECT FROM pg_roles WHERE rolname = name) THEN
            EXECUTE format('CREATE ROLE %I NOLOGIN', name);
        END IF;
    END LOOP;
END
$$;

-- The recorder's transaction timeout stays below the 30 s by which the lag sweep looks back.
ALTER ROLE saldo_record SET lock_timeout = '3s';
ALTER ROLE saldo_record SET statement_timeout = '8s';
ALTER ROLE saldo_record SET idle_in_transaction_session_timeout = '8s';
ALTER ROLE saldo_record SET transaction_timeout = '15s';
ALTER ROLE saldo_project SET lock_timeout = '3s';
ALTER ROLE saldo_project SET statement_timeout = '10s';
ALTER ROLE saldo_project SET idle_in_transaction_session_timeout = '8s';
ALTER ROLE saldo_project SET transaction_timeout = '20s';
ALTER ROLE saldo_query SET lock_timeout = '1s';
ALTER ROLE saldo_query SET statement_timeout = '5s';
ALTER ROLE saldo_query SET transaction_timeout = '8s';
ALTER ROLE saldo_query SET default_transaction_read_only = on;

-- How the functions' statements are planned: once for a connection, since planning one anew costs as
-- much as carrying it out. Such a plan may have been made while the tables were empty, and stays
-- until the first ANALYZE; so it must not read a whole table where there is an index. Nothing that a
-- function asks does.
DO $$
DECLARE
    name text;
BEGIN
    FOREACH name IN ARRAY ARRAY['saldo_record', 'saldo_project', 'saldo_query']
    LOOP
        EXECUTE format('ALTER ROLE %I SET plan_cache_mode = force_generic_plan', name);
        EXECUTE format('ALTER ROLE %I SET enable_seqscan = off', name);
        EXECUTE format('ALTER ROLE %I SET random_page_cost = 1.1', name);
        EXECUTE format('ALTER ROLE %I SET jit = off', name);
    END LOOP;
END
$$;

-- The tables that `saldo rebuild` replaces belong to saldo_operate. Giving them away, and changing
-- them in a later migration, takes a role that may become it and has its rights; one that is no
-- superuser has neither by having created it.
DO $$
BEGIN
    IF NOT (
        pg_has_role(current_user, 'saldo_operate', 'SET')
        AND pg_has_role(current_user, 'saldo_operate', 'USAGE')
    ) THEN
        EXECUTE format('GRANT saldo_operate TO %I WITH SET TRUE, INHERIT TRUE', current_user);
    END IF;
END
$$;
