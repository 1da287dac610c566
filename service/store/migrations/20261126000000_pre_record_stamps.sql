-- migrate:up

-- What a reader is told of a record beside its value is the same at every read, so it is put on the
-- wire once, when it is written: fields 4 to 7 of sixfold.data.v1.Record in the Protocol Buffers
-- encoding. One function, which calls none of ours: who restores a dump, or has renamed the schema,
-- computes it under another search path.
-- Adding the column writes the table anew; nothing has been released that could have a large one.

CREATE FUNCTION record_stamps(
    revision bigint, create_time timestamptz, update_time timestamptz, expire_time timestamptz
) RETURNS bytea
    LANGUAGE plpgsql IMMUTABLE PARALLEL SAFE
    AS $$
DECLARE
    times   timestamptz[] := ARRAY[create_time, update_time, expire_time];
    stamps  bytea := '';
    message bytea;
    numbers bigint[];
    number  bigint;
    epoch   numeric;
BEGIN
    FOR field IN 4..7 LOOP
        IF field = 4 THEN
            numbers := ARRAY[revision];
        ELSE
            CONTINUE WHEN times[field - 4] IS NULL;
            -- Some drivers write the last moment of the year 9999 as infinity.
            epoch := extract(epoch FROM least(times[field - 4], '9999-12-31T23:59:59.999999Z'));
            numbers := ARRAY[floor(epoch), (epoch - floor(epoch)) * 1000000000];
        END IF;
        message := '';
        FOR place IN 1..cardinality(numbers) LOOP
            number := numbers[place];
            CONTINUE WHEN number = 0;
            message := message || set_byte('\x00', 0, 8 * CASE field WHEN 4 THEN 4 ELSE place END);
            WHILE number NOT BETWEEN 0 AND 127 LOOP
                message := message || set_byte('\x00', 0, (number & 127)::integer | 128);
                number := (number >> 7) & ((1::bigint << 57) - 1); -- a negative one has ten bytes
            END LOOP;
            message := message || set_byte('\x00', 0, number::integer);
        END LOOP;
        IF field > 4 THEN -- a google.protobuf.Timestamp: its type, its length, seconds and nanos
            stamps := stamps || set_byte('\x00', 0, 8 * field + 2)
                             || set_byte('\x00', 0, octet_length(message));
        END IF;
        stamps := stamps || message;
    END LOOP;
    RETURN stamps;
END
$$;

ALTER TABLE records ADD COLUMN stamps bytea
    GENERATED ALWAYS AS (record_stamps(revision, create_time, update_time, expire_time)) STORED;

-- migrate:down

ALTER TABLE records DROP COLUMN stamps;
DROP FUNCTION record_stamps(bigint, timestamptz, timestamptz, timestamptz);
