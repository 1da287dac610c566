-- migrate:up

-- What a reader is told of a record beside its value is the same at every read, so it is put on the
-- wire once, when it is written: base-128 varints and messages of the Protocol Buffers encoding.
-- Adding the column writes the table anew; nothing has been released that could have a large one.

CREATE FUNCTION varint(number bigint) RETURNS bytea
    LANGUAGE plpgsql IMMUTABLE STRICT PARALLEL SAFE
    AS $$
DECLARE
    wire bytea := '';
BEGIN
    WHILE number NOT BETWEEN 0 AND 127 LOOP
        wire := wire || set_byte('\x00', 0, (number & 127)::integer | 128);
        number := (number >> 7) & ((1::bigint << 57) - 1); -- a negative one has ten bytes
    END LOOP;
    RETURN wire || set_byte('\x00', 0, number::integer);
END
$$;

-- google.protobuf.Timestamp: seconds (1) and nanos (2), neither where it is 0.
CREATE FUNCTION timestamp_message(moment timestamptz) RETURNS bytea
    LANGUAGE plpgsql IMMUTABLE STRICT PARALLEL SAFE
    AS $$
DECLARE
    -- The last moment of year 9999 is written as infinity by some drivers.
    epoch   numeric := extract(epoch FROM least(moment, '9999-12-31T23:59:59.999999Z'));
    seconds bigint  := floor(epoch);
    nanos   bigint  := (epoch - seconds) * 1000000000;
BEGIN
    RETURN CASE WHEN seconds = 0 THEN '' ELSE '\x08' || varint(seconds) END
        || CASE WHEN nanos = 0 THEN '' ELSE '\x10' || varint(nanos) END;
END
$$;

-- The fields 4 to 7 of sixfold.data.v1.Record. The search path is set for who restores a dump,
-- which computes this without one.
CREATE FUNCTION record_stamps(
    revision bigint, create_time timestamptz, update_time timestamptz, expire_time timestamptz
) RETURNS bytea
    LANGUAGE plpgsql IMMUTABLE PARALLEL SAFE SET search_path FROM CURRENT
    AS $$
DECLARE
    created bytea := timestamp_message(create_time);
    updated bytea := timestamp_message(update_time);
    expires bytea := timestamp_message(expire_time);
BEGIN
    RETURN '\x20' || varint(revision)
        || '\x2a' || varint(octet_length(created)) || created
        || '\x32' || varint(octet_length(updated)) || updated
        || coalesce('\x3a' || varint(octet_length(expires)) || expires, '');
END
$$;

ALTER TABLE records ADD COLUMN stamps bytea
    GENERATED ALWAYS AS (record_stamps(revision, create_time, update_time, expire_time)) STORED;

-- migrate:down

ALTER TABLE records DROP COLUMN stamps;
DROP FUNCTION record_stamps(bigint, timestamptz, timestamptz, timestamptz);
DROP FUNCTION timestamp_message(timestamptz);
DROP FUNCTION varint(bigint);
