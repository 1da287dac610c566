-- migrate:up

-- A record is the same at every read, so it is put on the wire once, when it is written: as a
-- sixfold.data.v1.GetRecordResponse in the Protocol Buffers encoding, which is also what stands for
-- it in the responses with several, as all have it in field 1, and fields follow each other.
-- One function, which calls none of ours: who restores a dump, or has renamed the schema, computes
-- it under another search path. Adding the column writes the table anew; nothing has been released
-- that could have a large one.

-- What earlier, unreleased versions kept instead. Their processes must have ended.
ALTER TABLE records DROP COLUMN IF EXISTS stamps, DROP COLUMN IF EXISTS message;
DROP FUNCTION IF EXISTS record_stamps(bigint, timestamptz, timestamptz, timestamptz);
DROP FUNCTION IF EXISTS record_message(
    text, text, jsonb, bigint, timestamptz, timestamptz, timestamptz
);

CREATE FUNCTION record_message(
    collection text, key text, value jsonb, revision bigint,
    create_time timestamptz, update_time timestamptz, expire_time timestamptz
) RETURNS bytea
    LANGUAGE plpgsql IMMUTABLE PARALLEL SAFE
    AS $$
DECLARE
    texts   bytea[] := ARRAY[convert_to(collection, 'UTF8'), convert_to(key, 'UTF8'),
                             convert_to(value::text, 'UTF8')];
    times   timestamptz[] := ARRAY[create_time, update_time, expire_time];
    message bytea := '';
    part    bytea;
    numbers bigint[];
    number  bigint;
    tag     integer;
    epoch   numeric;
BEGIN
    FOR field IN 1..8 LOOP -- those of Record, and then its own
        IF field < 4 THEN
            numbers := ARRAY[octet_length(texts[field])];
        ELSIF field = 4 THEN
            numbers := ARRAY[revision];
        ELSIF field = 8 THEN
            numbers := ARRAY[octet_length(message)];
        ELSE
            CONTINUE WHEN times[field - 4] IS NULL;
            -- Some drivers write the last moment of the year 9999 as infinity.
            epoch := extract(epoch FROM least(times[field - 4], '9999-12-31T23:59:59.999999Z'));
            numbers := ARRAY[floor(epoch), (epoch - floor(epoch)) * 1000000000];
        END IF;
        part := '';
        FOR place IN 1..cardinality(numbers) LOOP
            number := numbers[place];
            CONTINUE WHEN number = 0;
            tag := CASE WHEN field < 4 THEN 8 * field + 2 WHEN field = 4 THEN 32
                        WHEN field = 8 THEN 10 ELSE 8 * place END;
            part := part || set_byte('\x00', 0, tag);
            WHILE number NOT BETWEEN 0 AND 127 LOOP
                part := part || set_byte('\x00', 0, (number & 127)::integer | 128);
                number := (number >> 7) & ((1::bigint << 57) - 1); -- a negative one has ten bytes
            END LOOP;
            part := part || set_byte('\x00', 0, number::integer);
        END LOOP;
        IF field < 4 THEN
            part := part || texts[field];
        ELSIF field = 8 THEN
            RETURN part || message;
        ELSIF field > 4 THEN -- a google.protobuf.Timestamp: its type, its length, seconds and nanos
            part := set_byte('\x00', 0, 8 * field + 2) || set_byte('\x00', 0, octet_length(part))
                                                       || part;
        END IF;
        message := message || part;
    END LOOP;
END
$$;

ALTER TABLE records ADD COLUMN message bytea GENERATED ALWAYS AS (
    record_message(collection, key, json, revision, create_time, update_time, expire_time)
) STORED;

-- A row holds its value twice, so values of as many bytes as before stay in it, uncompressed: twice
-- the default of 2 kB.
ALTER TABLE records SET (toast_tuple_target = 4080);

-- migrate:down

ALTER TABLE records RESET (toast_tuple_target);
ALTER TABLE records DROP COLUMN message;
DROP FUNCTION record_message(
    text, text, jsonb, bigint, timestamptz, timestamptz, timestamptz
);
