-- minimum_reader = 1

-- How many bytes the messages have, in the row that whoever appends takes in any case. What a program of before appends
-- while it still runs is not counted.
ALTER TABLE counter ADD COLUMN bytes bigint NOT NULL DEFAULT 0;

UPDATE counter SET bytes = (
    SELECT coalesce(sum(100 + coalesce(octet_length(system), 0) + coalesce(octet_length(properties), 0) + coalesce(octet_length(body), 0)), 0)
    FROM message)
  WHERE name = 'message';
