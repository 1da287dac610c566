-- migrate:up

-- Names and keys are compared byte by byte, so their order, and with it every page token, is the
-- same whatever locale the database was made with.

CREATE TABLE users (
    user_id           uuid PRIMARY KEY,
    username          text COLLATE "C" NOT NULL,
    password_hash     text NOT NULL,
    -- Sessions carry the epoch of the credentials that opened them. Advancing it ends them all at
    -- once, also those whose login is still between its two statements.
    session_epoch     integer NOT NULL DEFAULT 0,
    create_request_id uuid,
    disable_time      timestamptz,
    create_time       timestamptz NOT NULL DEFAULT now(),
    update_time       timestamptz NOT NULL DEFAULT now(),
    CONSTRAINT users_username_key UNIQUE (username)
);

CREATE TABLE sessions (
    user_id            uuid NOT NULL REFERENCES users ON DELETE CASCADE,
    session_id         uuid NOT NULL,
    epoch              integer NOT NULL,
    client_id          text NOT NULL,
    scopes             text[] NOT NULL,
    refresh_hash       bytea NOT NULL,
    refresh_generation integer NOT NULL DEFAULT 0,
    refresh_salt       bytea,
    refresh_request_id uuid,
    refresh_time       timestamptz NOT NULL DEFAULT now(),
    create_time        timestamptz NOT NULL DEFAULT now(),
    idle_expire_time   timestamptz NOT NULL,
    expire_time        timestamptz NOT NULL,
    end_time           timestamptz,
    end_reason         text,
    PRIMARY KEY (user_id, session_id)
) WITH (fillfactor = 80); -- room for rotations to stay on their page (heap-only updates)

CREATE INDEX sessions_open ON sessions (user_id, create_time) WHERE end_time IS NULL;
CREATE INDEX sessions_expire_time ON sessions (expire_time);
CREATE INDEX sessions_end_time ON sessions (end_time) WHERE end_time IS NOT NULL;

-- What "the session is alive" means, once. Every statement that touches somebody's data starts here.
CREATE VIEW live_sessions AS
    SELECT s.user_id, s.session_id,
           u.username, u.session_epoch, u.create_time, u.update_time
      FROM sessions s
      JOIN users u ON u.user_id = s.user_id
     WHERE s.end_time IS NULL
       AND s.expire_time > now()
       AND s.epoch = u.session_epoch
       AND u.disable_time IS NULL;

-- One row a user: locked by each write of that user, which is what puts them in one order without
-- gaps.
CREATE TABLE user_counters (
    user_id      uuid PRIMARY KEY REFERENCES users ON DELETE CASCADE,
    revision     bigint NOT NULL DEFAULT 0,
    record_count integer NOT NULL DEFAULT 0
) WITH (fillfactor = 50);

CREATE TABLE records (
    user_id     uuid NOT NULL REFERENCES users ON DELETE CASCADE,
    collection  text COLLATE "C" NOT NULL,
    key         text COLLATE "C" NOT NULL,
    json        jsonb NOT NULL,
    -- Of the text that readers get, so that pages can be cut without reading the values.
    size        integer GENERATED ALWAYS AS (octet_length(json::text)) STORED,
    revision    bigint NOT NULL,
    create_time timestamptz NOT NULL,
    update_time timestamptz NOT NULL,
    expire_time timestamptz,
    PRIMARY KEY (user_id, collection, key),
    CONSTRAINT records_size_check CHECK (size <= 262144)
);

CREATE INDEX records_expire_time ON records (expire_time) WHERE expire_time IS NOT NULL;

-- The first answers of writes that carried a request_id.
CREATE TABLE write_requests (
    user_id      uuid NOT NULL REFERENCES users ON DELETE CASCADE,
    request_id   uuid NOT NULL,
    request_hash bytea NOT NULL,
    revision     bigint NOT NULL,
    create_time  timestamptz NOT NULL,
    update_time  timestamptz NOT NULL,
    PRIMARY KEY (user_id, request_id)
);

CREATE INDEX write_requests_update_time ON write_requests (update_time);

-- Failed logins in a row, by a hash of the username, whether or not there is such a user. 2^20
-- buckets at the most, so guessing names cannot fill the disk or push a victim's count out.
CREATE TABLE login_throttles (
    bucket      integer PRIMARY KEY,
    failures    integer NOT NULL,
    retry_time  timestamptz NOT NULL,
    update_time timestamptz NOT NULL
);

CREATE INDEX login_throttles_update_time ON login_throttles (update_time);

CREATE FUNCTION login_bucket(name text) RETURNS integer
    LANGUAGE sql IMMUTABLE STRICT
    AS $$ SELECT (hashtextextended(name COLLATE "C", 0) & 1048575)::integer $$;

-- The one guard of every path that checks a password. An attempt counts as failed when it starts,
-- so parallel guesses cannot slip past; a success deletes the row. Returns null when the attempt
-- may go on, else when to try again.
CREATE FUNCTION take_login_attempt(name text, free integer, longest integer)
    RETURNS timestamptz LANGUAGE sql VOLATILE
    AS $$
    WITH attempt AS (
        INSERT INTO login_throttles AS t (bucket, failures, retry_time, update_time)
        VALUES (login_bucket(name), 1, now(), now())
        ON CONFLICT (bucket) DO UPDATE
           SET failures = least(t.failures + 1, 1000),
               retry_time = now() + make_interval(secs =>
                   CASE WHEN t.failures + 1 <= free THEN 0
                        ELSE least(longest, power(2, least(t.failures + 1 - free, 30))) END),
               update_time = now()
         -- now() of a statement that waited for the row is older than what the row says.
         WHERE t.failures <= free OR t.retry_time <= now()
        RETURNING bucket
    )
    SELECT CASE WHEN EXISTS (SELECT FROM attempt) THEN NULL
                ELSE coalesce((SELECT t.retry_time FROM login_throttles t
                                WHERE t.bucket = login_bucket(name)),
                              now() + interval '1 second') END
    $$;

CREATE TABLE signing_keys (
    kid         text COLLATE "C" PRIMARY KEY,
    sealed_key  bytea NOT NULL,
    create_time timestamptz NOT NULL DEFAULT now(),
    sign_after  timestamptz NOT NULL,
    expire_time timestamptz
);

-- migrate:down

DROP TABLE signing_keys;
DROP FUNCTION take_login_attempt(text, integer, integer);
DROP FUNCTION login_bucket(text);
DROP TABLE login_throttles, write_requests, records, user_counters;
DROP VIEW live_sessions;
DROP TABLE sessions, users;
