-- minimum_reader = 1

-- What is too old is found among the first messages of the stream: they are about in the order of time.
DROP INDEX message_enqueued;
