-- Where the messages of hubs go, and how far those are who read them.
CREATE TABLE route (
  hub       TEXT NOT NULL,
  name      TEXT NOT NULL,
  source    TEXT NOT NULL,
  condition TEXT NOT NULL,
  sink      TEXT NOT NULL, -- its name
  enabled   INTEGER NOT NULL,
  etag      TEXT NOT NULL,
  PRIMARY KEY (hub, name)
) STRICT, WITHOUT ROWID;

CREATE TABLE sink (
  hub         TEXT NOT NULL,
  name        TEXT NOT NULL,
  kind        TEXT NOT NULL,
  settings    TEXT, -- JSON
  authorities TEXT NOT NULL, -- PEM
  batch_size  INTEGER NOT NULL,
  batch_wait  INTEGER NOT NULL, -- nanoseconds
  secret      BLOB, -- its URL and secret, sealed
  etag        TEXT NOT NULL,
  PRIMARY KEY (hub, name)
) STRICT, WITHOUT ROWID;

CREATE TABLE stream_position (
  hub           TEXT NOT NULL,
  kind          TEXT NOT NULL, -- route or group
  name          TEXT NOT NULL,
  sequence      INTEGER NOT NULL,
  delivered     INTEGER NOT NULL,
  lost          INTEGER NOT NULL,
  owner         TEXT NOT NULL, -- who reads; empty when nobody does
  lease         INTEGER,       -- until when
  failing_since INTEGER,
  last_error    TEXT NOT NULL,
  delivery      INTEGER,
  PRIMARY KEY (hub, kind, name)
) STRICT, WITHOUT ROWID;
