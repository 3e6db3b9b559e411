-- Times are nanoseconds since 1970-01-01 UTC, NULL where there is none; booleans are 0 and 1. JSON is kept as the text
-- it came in. Columns named "keys" are sealed: store/internal/sealed says what is in them.

PRAGMA application_id = 0x42657274; -- "Bert"

-- One row: a known text sealed under the server's key, so that a wrong key is noticed before it does harm.
CREATE TABLE seal_check (
  id     INTEGER PRIMARY KEY CHECK (id = 1),
  sealed BLOB NOT NULL
) STRICT;

CREATE TABLE scope (
  id         TEXT PRIMARY KEY,
  allocation TEXT NOT NULL
) STRICT, WITHOUT ROWID;

CREATE TABLE linked_hub (
  scope      TEXT NOT NULL REFERENCES scope (id),
  host       TEXT NOT NULL COLLATE NOCASE,
  weight     INTEGER NOT NULL,
  allocation INTEGER NOT NULL,
  PRIMARY KEY (scope, host)
) STRICT, WITHOUT ROWID;

CREATE TABLE policy (
  owner  TEXT NOT NULL,
  name   TEXT NOT NULL COLLATE NOCASE,
  rights INTEGER NOT NULL,
  keys   BLOB,
  PRIMARY KEY (owner, name)
) STRICT, WITHOUT ROWID;

CREATE TABLE enrollment (
  scope               TEXT NOT NULL REFERENCES scope (id),
  kind                TEXT NOT NULL,
  key                 TEXT NOT NULL, -- id in lower case
  id                  TEXT NOT NULL,
  mechanism           TEXT NOT NULL,
  device_id           TEXT NOT NULL,
  device_information  TEXT,          -- JSON
  keys                BLOB,          -- symmetricKey
  x509_use            TEXT NOT NULL, -- x509
  x509_primary        BLOB,          -- DER
  x509_secondary      BLOB,          -- DER
  x509_primary_name   TEXT NOT NULL, -- of a CA kept by the service
  x509_secondary_name TEXT NOT NULL,
  endorsement_key     BLOB,          -- tpm: TPM2B_PUBLIC
  storage_root_key    BLOB,          -- tpm: TPM2B_PUBLIC
  disabled            INTEGER NOT NULL,
  iot_edge            INTEGER NOT NULL,
  twin                INTEGER NOT NULL, -- whether there is an initial twin
  twin_tags           TEXT,          -- JSON
  twin_desired        TEXT,          -- JSON
  reprovision         TEXT,          -- JSON
  allocation          TEXT NOT NULL,
  hubs                TEXT,          -- JSON
  hub                 TEXT NOT NULL,
  custom_allocation   TEXT,          -- JSON
  credential_policy   TEXT NOT NULL,
  etag                TEXT NOT NULL,
  created             INTEGER,
  updated             INTEGER,
  PRIMARY KEY (scope, kind, key)
) STRICT;

CREATE INDEX enrollment_group ON enrollment (scope, mechanism, key) WHERE kind = 'group';

CREATE TABLE registration (
  scope            TEXT NOT NULL,
  key              TEXT NOT NULL, -- id in lower case
  id               TEXT NOT NULL,
  group_id         TEXT NOT NULL COLLATE NOCASE,
  attestation      TEXT NOT NULL,
  status           TEXT NOT NULL,
  substatus        TEXT NOT NULL,
  hub              TEXT NOT NULL,
  device_id        TEXT NOT NULL,
  error_code       INTEGER NOT NULL,
  error_message    TEXT NOT NULL,
  payload          TEXT,          -- JSON
  operation_id     TEXT NOT NULL,
  etag             TEXT NOT NULL,
  created          INTEGER,
  updated          INTEGER,
  hub_key_blob     BLOB,          -- only the device's TPM can open it
  storage_root_key BLOB,          -- TPM2B_PUBLIC
  PRIMARY KEY (scope, key)
) STRICT;

CREATE INDEX registration_group ON registration (scope, group_id, key) WHERE group_id <> '';

CREATE TABLE device (
  hub                  TEXT NOT NULL,
  id                   TEXT NOT NULL, -- case-sensitive
  generation_id        TEXT NOT NULL,
  etag                 TEXT NOT NULL,
  disabled             INTEGER NOT NULL,
  status_reason        TEXT NOT NULL,
  status_updated       INTEGER,
  iot_edge             INTEGER NOT NULL,
  authentication       TEXT NOT NULL,
  keys                 BLOB,
  primary_thumbprint   TEXT NOT NULL,
  secondary_thumbprint TEXT NOT NULL,
  twin_version         INTEGER,       -- NULL where there is no twin
  tags                 TEXT,          -- JSON
  desired              TEXT,          -- JSON
  desired_version      INTEGER,
  desired_updated      INTEGER,
  reported             TEXT,          -- JSON
  reported_version     INTEGER,
  reported_updated     INTEGER,
  PRIMARY KEY (hub, id)
) STRICT;

CREATE TABLE message (
  sequence   INTEGER PRIMARY KEY,
  hub        TEXT NOT NULL,
  device_id  TEXT NOT NULL,
  enqueued   INTEGER NOT NULL,
  system     TEXT, -- JSON
  properties TEXT, -- JSON
  body       BLOB
) STRICT;

CREATE INDEX message_hub ON message (hub);
CREATE INDEX message_enqueued ON message (enqueued);

-- One row: the newest sequence number when messages were last trimmed. Numbers are not used again.
CREATE TABLE message_trimmed (
  id       INTEGER PRIMARY KEY CHECK (id = 1),
  sequence INTEGER NOT NULL
) STRICT;

INSERT INTO message_trimmed VALUES (1, 0);
