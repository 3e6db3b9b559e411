-- Messages are in the files of the stream, beside the database. What older versions kept in the table is moved there
-- by the program when it next opens the database, and nothing is looked for in it any more.
DROP INDEX message_hub;
DROP INDEX message_enqueued;

-- Whether they were moved. From then on the files must be there.
ALTER TABLE message_trimmed ADD COLUMN moved INTEGER NOT NULL DEFAULT 0;
