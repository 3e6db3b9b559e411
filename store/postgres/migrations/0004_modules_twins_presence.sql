-- minimum_reader = 1

-- An IoT Edge device that a device is a child of; what is known of each property; what configurations say.
ALTER TABLE device ADD COLUMN parent_scope text COLLATE "C" NOT NULL DEFAULT '';
ALTER TABLE device ADD COLUMN desired_metadata text COLLATE "C";  -- JSON; NULL: all of it was written at once
ALTER TABLE device ADD COLUMN reported_metadata text COLLATE "C"; -- JSON; NULL: all of it was written at once
ALTER TABLE device ADD COLUMN configurations text COLLATE "C";    -- JSON
ALTER TABLE device ADD COLUMN model_id text COLLATE "C";
-- The twin_version whose values are in twin_value. A program of before does not write it: what it changes shows.
ALTER TABLE device ADD COLUMN indexed bigint;

CREATE INDEX device_unindexed ON device (hub, id) WHERE indexed IS DISTINCT FROM twin_version;

CREATE INDEX device_parent_scope ON device (hub, parent_scope, id) WHERE parent_scope <> '';

-- Modules of devices, as devices. They go with their device.
CREATE TABLE module (
  hub                  text COLLATE "C" NOT NULL,
  id                   text COLLATE "C" NOT NULL, -- the device's
  module               text COLLATE "C" NOT NULL, -- case-sensitive
  generation_id        text COLLATE "C" NOT NULL,
  etag                 text COLLATE "C" NOT NULL,
  managed_by           text COLLATE "C" NOT NULL,
  authentication       text COLLATE "C" NOT NULL,
  primary_thumbprint   text COLLATE "C" NOT NULL,
  secondary_thumbprint text COLLATE "C" NOT NULL,
  keys                 bytea,
  twin_version         bigint,       -- NULL where there is no twin
  tags                 text COLLATE "C",          -- JSON
  desired              text COLLATE "C",          -- JSON
  desired_version      bigint,
  desired_updated      bigint,
  desired_metadata     text COLLATE "C",          -- JSON
  reported             text COLLATE "C",          -- JSON
  reported_version     bigint,
  reported_updated     bigint,
  reported_metadata    text COLLATE "C",          -- JSON
  configurations       text COLLATE "C",          -- JSON
  model_id             text COLLATE "C",
  indexed              bigint,       -- the twin_version whose values are in twin_value
  PRIMARY KEY (hub, id, module),
  FOREIGN KEY (hub, id) REFERENCES device (hub, id) ON DELETE CASCADE
);

-- What queries find twins by: the values in them that are no objects or arrays. path is a number for a hub and a path,
-- and value what hub/query makes of a value, cut off: both can only name too many, and so can rows that were left over.
CREATE TABLE twin_value (
  path   bigint NOT NULL,
  value  bytea NOT NULL,
  id     text COLLATE "C" NOT NULL,
  module text COLLATE "C" NOT NULL,
  PRIMARY KEY (path, value, id, module)
);

-- Who is connected, and when it was last heard of. It is written a moment later.
CREATE TABLE presence (
  hub           text COLLATE "C" NOT NULL,
  id            text COLLATE "C" NOT NULL,
  module        text COLLATE "C" NOT NULL,
  server        text COLLATE "C" NOT NULL, -- empty where it is not connected
  updated       bigint NOT NULL,           -- when it connected or ceased to be; 0 for never
  last_activity bigint NOT NULL,           -- 0 for none
  PRIMARY KEY (hub, id, module),
  FOREIGN KEY (hub, id) REFERENCES device (hub, id) ON DELETE CASCADE
);

-- Servers that run: who is connected to another one is not.
CREATE TABLE server (
  id    text COLLATE "C" PRIMARY KEY,
  until bigint NOT NULL -- it is believed to run until then
);

-- IoT Edge deployments and device configurations.
CREATE TABLE configuration (
  hub      text COLLATE "C" NOT NULL,
  id       text COLLATE "C" NOT NULL,
  document text COLLATE "C" NOT NULL, -- JSON
  etag     text COLLATE "C" NOT NULL,
  created  bigint NOT NULL,
  updated  bigint NOT NULL,
  PRIMARY KEY (hub, id)
);

ALTER TABLE message ADD COLUMN module_id text COLLATE "C" NOT NULL DEFAULT '';
