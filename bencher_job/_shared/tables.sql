-- The tables and functions of a shared store in PostgreSQL. {schema} stands for the name of their schema.
--
-- A client calls `ask` before it computes, and `done` afterwards. Leases are in unlogged tables: they end with the server.

create schema if not exists {schema};
create table {schema}.about (format text not null, version int not null, secret text not null);
create table {schema}.entry (
    address text collate "C" primary key, size bigint not null, stored timestamptz not null default now(),
    value bytea, parts uuid);
alter table {schema}.entry alter column value set storage external;
create table {schema}.part (
    id uuid, number int, stored timestamptz not null default now(), value bytea not null, primary key (id, number));
alter table {schema}.part alter column value set storage external;
create table {schema}.change (
    number bigint generated always as identity primary key, address text not null,
    happened timestamptz not null default clock_timestamp());
create index on {schema}.change (happened);
create unlogged table {schema}.session (
    id uuid primary key, host text not null, pid int not null, until timestamptz not null);
create unlogged table {schema}.lease (
    address text collate "C" primary key, session uuid not null, until timestamptz not null,
    number bigint generated always as identity);

create function {schema}.beat(me uuid, my_host text, my_pid int, seconds float8) returns void language sql as $$
    insert into {schema}.session values (me, my_host, my_pid, clock_timestamp() + seconds * interval '1 second')
    on conflict (id) do update set until = excluded.until
$$;

-- What exists, with its number null; leases on the rest, with their numbers.
create function {schema}.ask(
    asked text[], me uuid, my_host text, my_pid int, seconds float8)
returns table (address text, value bytea, parts uuid, number bigint) language plpgsql as $$
#variable_conflict use_column
declare
    missing text[];
    mine text[];
begin
    select array_agg(a order by a collate "C") into missing from unnest(asked) a
        where not exists (select from {schema}.entry e where e.address = a);
    if missing is not null then
        perform {schema}.beat(me, my_host, my_pid, seconds);
        with taken as (
            insert into {schema}.lease as l (address, session, until)
                select a, me, clock_timestamp() + seconds * interval '1 second'
                    from unnest(missing) a order by a collate "C"
            -- The first lease of a session may be seen here before the session is.
            on conflict (address) do update set session = me, until = excluded.until, number = default
                where l.session = me or l.until <= clock_timestamp() and not exists (
                    select from {schema}.session s where s.id = l.session and s.until > clock_timestamp())
            returning l.address)
        select array_agg(address) into mine from taken;
        -- stored between the first look and the lease
        delete from {schema}.lease l using {schema}.entry e
            where l.address = any(mine) and l.session = me and e.address = l.address;
    end if;
    return query select e.address, e.value, e.parts, null::bigint from {schema}.entry e
        where e.address = any(asked)
        union all select l.address, null, null, l.number from {schema}.lease l
        where l.address = any(mine) and l.session = me;
end $$;

-- Store what doesn't exist, and release the leases on it. What others have stored is returned.
create function {schema}.done(
    given text[], sizes bigint[], contents bytea[], many uuid[], me uuid)
returns table (address text, value bytea, parts uuid) language plpgsql as $$
#variable_conflict use_column
begin
    insert into {schema}.entry (address, size, value, parts)
        select * from unnest(given, sizes, contents, many) g(a, s, v, p) order by a collate "C"
        on conflict do nothing;
    perform {schema}.let_go(given, null, me);
    return query select e.address, e.value, e.parts from unnest(given, contents, many) g(a, v, p)
        join {schema}.entry e on e.address = a
        where e.value is distinct from v or e.parts is distinct from p;
end $$;

create function {schema}.let_go(given text[], numbers bigint[], me uuid) returns void language sql as $$
    with held as (
        select l.address from {schema}.lease l
            where l.address = any(given) and l.session = me and (numbers is null or l.number = any(numbers))
            order by l.address for update)
    delete from {schema}.lease l using held where l.address = held.address and l.session = me
$$;

create function {schema}.remove(given text[]) returns void language plpgsql as $$
begin
    delete from {schema}.part p using {schema}.entry e where e.address = any(given) and p.id = e.parts;
    delete from {schema}.entry e where e.address = any(given);
    insert into {schema}.change (address) select unnest(given);
end $$;

create function {schema}.replace(given text, size bigint, content bytea, many uuid, me uuid)
returns void language plpgsql as $$
begin
    perform {schema}.remove(array[given]);
    insert into {schema}.entry as e values (given, size, now(), content, many)
        on conflict (address) do update set
            size = excluded.size, stored = excluded.stored, value = excluded.value, parts = excluded.parts;
    perform {schema}.let_go(array[given], null, me);
end $$;
