-- Messages to devices, until they are settled. A queue goes with its device.
CREATE TABLE cloud_message (
  sequence     INTEGER PRIMARY KEY AUTOINCREMENT, -- never used again
  hub          TEXT NOT NULL,
  device_id    TEXT NOT NULL,
  enqueued     INTEGER NOT NULL,
  expiry       INTEGER NOT NULL,
  lock_token   TEXT NOT NULL, -- empty unless it is locked
  locked_until INTEGER,
  deliveries   INTEGER NOT NULL,
  ack          TEXT NOT NULL,
  system       TEXT, -- JSON
  properties   TEXT, -- JSON
  body         BLOB,
  FOREIGN KEY (hub, device_id) REFERENCES device (hub, id) ON DELETE CASCADE
) STRICT;

CREATE INDEX cloud_message_device ON cloud_message (hub, device_id, sequence);
CREATE INDEX cloud_message_expiry ON cloud_message (expiry);

-- How messages ended, until somebody took that.
CREATE TABLE feedback (
  sequence      INTEGER PRIMARY KEY AUTOINCREMENT,
  hub           TEXT NOT NULL,
  device_id     TEXT NOT NULL,
  generation_id TEXT NOT NULL,
  message_id    TEXT NOT NULL,
  ended         INTEGER NOT NULL,
  outcome       TEXT NOT NULL,
  lock_token    TEXT NOT NULL DEFAULT '',
  locked_until  INTEGER NOT NULL DEFAULT 0
) STRICT;

CREATE INDEX feedback_hub ON feedback (hub, sequence);
CREATE INDEX feedback_lock ON feedback (lock_token) WHERE lock_token <> '';
CREATE INDEX feedback_ended ON feedback (ended);
