-- An IoT Edge device that a device is a child of; what is known of each property; what configurations say.
ALTER TABLE device ADD COLUMN parent_scope TEXT NOT NULL DEFAULT '';
ALTER TABLE device ADD COLUMN desired_metadata TEXT;  -- JSON; NULL: all of it was written at once
ALTER TABLE device ADD COLUMN reported_metadata TEXT; -- JSON; NULL: all of it was written at once
ALTER TABLE device ADD COLUMN configurations TEXT;    -- JSON
ALTER TABLE device ADD COLUMN model_id TEXT;
ALTER TABLE device ADD COLUMN indexed INTEGER; -- the twin_version whose values are in twin_value

CREATE INDEX device_unindexed ON device (hub, id) WHERE indexed IS NOT twin_version;

CREATE INDEX device_parent_scope ON device (hub, parent_scope, id) WHERE parent_scope <> '';

-- Modules of devices, as devices. They go with their device.
CREATE TABLE module (
  hub                  TEXT NOT NULL,
  id                   TEXT NOT NULL, -- the device's
  module               TEXT NOT NULL, -- case-sensitive
  generation_id        TEXT NOT NULL,
  etag                 TEXT NOT NULL,
  managed_by           TEXT NOT NULL,
  authentication       TEXT NOT NULL,
  primary_thumbprint   TEXT NOT NULL,
  secondary_thumbprint TEXT NOT NULL,
  keys                 BLOB,
  twin_version         INTEGER,       -- NULL where there is no twin
  tags                 TEXT,          -- JSON
  desired              TEXT,          -- JSON
  desired_version      INTEGER,
  desired_updated      INTEGER,
  desired_metadata     TEXT,          -- JSON
  reported             TEXT,          -- JSON
  reported_version     INTEGER,
  reported_updated     INTEGER,
  reported_metadata    TEXT,          -- JSON
  configurations       TEXT,          -- JSON
  model_id             TEXT,
  indexed              INTEGER,       -- the twin_version whose values are in twin_value
  PRIMARY KEY (hub, id, module),
  FOREIGN KEY (hub, id) REFERENCES device (hub, id) ON DELETE CASCADE
) STRICT;

-- What queries find twins by: the values in them that are no objects or arrays. path is a number for a hub and a path,
-- and value what hub/query makes of a value, cut off: both can only name too many, and so can rows that were left over.
CREATE TABLE twin_value (
  path   INTEGER NOT NULL,
  value  BLOB NOT NULL,
  id     TEXT NOT NULL,
  module TEXT NOT NULL,
  PRIMARY KEY (path, value, id, module)
) STRICT, WITHOUT ROWID;

-- Who is connected, and when it was last heard of. It is written a moment later.
CREATE TABLE presence (
  hub           TEXT NOT NULL,
  id            TEXT NOT NULL,
  module        TEXT NOT NULL,
  server        TEXT NOT NULL,    -- empty where it is not connected
  updated       INTEGER NOT NULL, -- when it connected or ceased to be; 0 for never
  last_activity INTEGER NOT NULL, -- 0 for none
  PRIMARY KEY (hub, id, module),
  FOREIGN KEY (hub, id) REFERENCES device (hub, id) ON DELETE CASCADE
) STRICT, WITHOUT ROWID;

-- Servers that run: who is connected to another one is not.
CREATE TABLE server (
  id    TEXT PRIMARY KEY,
  until INTEGER NOT NULL -- it is believed to run until then
) STRICT, WITHOUT ROWID;

-- IoT Edge deployments and device configurations.
CREATE TABLE configuration (
  hub      TEXT NOT NULL,
  id       TEXT NOT NULL,
  document TEXT NOT NULL, -- JSON
  etag     TEXT NOT NULL,
  created  INTEGER NOT NULL,
  updated  INTEGER NOT NULL,
  PRIMARY KEY (hub, id)
) STRICT, WITHOUT ROWID;

ALTER TABLE message ADD COLUMN module_id TEXT NOT NULL DEFAULT '';
