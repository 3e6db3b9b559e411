-- A registration under way: what it still needs, and when somebody is to work on it.
ALTER TABLE registration ADD COLUMN pending TEXT; -- JSON
ALTER TABLE registration ADD COLUMN due INTEGER;
CREATE INDEX registration_due ON registration (due) WHERE due IS NOT NULL;

-- How to reach a hub elsewhere: a shared access policy of it. Hubs of these servers have none.
ALTER TABLE linked_hub ADD COLUMN policy TEXT NOT NULL DEFAULT '';
ALTER TABLE linked_hub ADD COLUMN keys BLOB;
ALTER TABLE linked_hub ADD COLUMN latency TEXT; -- JSON

ALTER TABLE scope ADD COLUMN hosts TEXT;  -- JSON
ALTER TABLE scope ADD COLUMN limits TEXT; -- JSON
ALTER TABLE scope ADD COLUMN shared_keys TEXT NOT NULL DEFAULT 'warn';

CREATE TABLE ca_certificate (
  scope             TEXT NOT NULL REFERENCES scope (id),
  name              TEXT NOT NULL COLLATE NOCASE,
  certificate       BLOB NOT NULL, -- DER
  verified          INTEGER NOT NULL,
  verification_code TEXT NOT NULL,
  etag              TEXT NOT NULL,
  created           INTEGER,
  updated           INTEGER,
  PRIMARY KEY (scope, name)
) STRICT, WITHOUT ROWID;

-- Every import into a scope's trust store and every removal from it makes a version.
CREATE TABLE trust_version (
  scope   TEXT NOT NULL REFERENCES scope (id),
  version INTEGER NOT NULL,
  time    INTEGER NOT NULL,
  policy  TEXT NOT NULL, -- whose caller did it
  source  TEXT NOT NULL,
  digest  TEXT NOT NULL,
  added   INTEGER NOT NULL,
  removed INTEGER NOT NULL,
  PRIMARY KEY (scope, version)
) STRICT, WITHOUT ROWID;

CREATE TABLE trust_anchor (
  scope       TEXT NOT NULL REFERENCES scope (id),
  thumbprint  TEXT NOT NULL, -- SHA-256 of the certificate
  added       INTEGER NOT NULL, -- the version that brought it
  removed     INTEGER,          -- the version that took it away
  certificate BLOB NOT NULL, -- DER
  root        INTEGER NOT NULL, -- whether paths may end here
  vendor      TEXT NOT NULL,
  file        TEXT NOT NULL,
  test        INTEGER NOT NULL, -- of a software TPM
  PRIMARY KEY (scope, thumbprint, added)
) STRICT, WITHOUT ROWID;

-- Which individual enrollments have a symmetric key, found by a digest of it that only the server can make.
CREATE TABLE symmetric_key_use (
  scope  TEXT NOT NULL,
  digest BLOB NOT NULL,
  key    TEXT NOT NULL, -- of the enrollment
  PRIMARY KEY (scope, digest, key)
) STRICT, WITHOUT ROWID;

-- One row, when the keys of all enrollments from before are in symmetric_key_use.
CREATE TABLE symmetric_keys_known (
  id INTEGER PRIMARY KEY CHECK (id = 1)
) STRICT;

-- The hubs of these servers, each of one scope, also while they are not linked.
CREATE TABLE hub (
  name  TEXT NOT NULL PRIMARY KEY, -- host name in lower case without the port
  scope TEXT NOT NULL REFERENCES scope (id)
) STRICT, WITHOUT ROWID;

INSERT OR IGNORE INTO hub
  SELECT lower(CASE instr(host, ':') WHEN 0 THEN host ELSE substr(host, 1, instr(host, ':') - 1) END), scope FROM linked_hub;
INSERT OR IGNORE INTO hub
  SELECT substr(owner, 5), (SELECT min(id) FROM scope) FROM policy WHERE owner LIKE 'hub:%' AND EXISTS (SELECT 1 FROM scope);
