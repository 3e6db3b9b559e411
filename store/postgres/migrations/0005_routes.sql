-- minimum_reader = 1

-- Where the messages of hubs go, and how far those are who read them.
CREATE TABLE route (
  hub       text COLLATE "C" NOT NULL,
  name      text COLLATE "C" NOT NULL,
  source    text COLLATE "C" NOT NULL,
  condition text COLLATE "C" NOT NULL,
  sink      text COLLATE "C" NOT NULL, -- its name
  enabled   boolean NOT NULL,
  etag      text COLLATE "C" NOT NULL,
  PRIMARY KEY (hub, name)
);

CREATE TABLE sink (
  hub         text COLLATE "C" NOT NULL,
  name        text COLLATE "C" NOT NULL,
  kind        text COLLATE "C" NOT NULL,
  settings    text COLLATE "C", -- JSON
  authorities text COLLATE "C" NOT NULL, -- PEM
  batch_size  bigint NOT NULL,
  batch_wait  bigint NOT NULL, -- nanoseconds
  secret      bytea, -- its URL and secret, sealed
  etag        text COLLATE "C" NOT NULL,
  PRIMARY KEY (hub, name)
);

CREATE TABLE stream_position (
  hub           text COLLATE "C" NOT NULL,
  kind          text COLLATE "C" NOT NULL, -- route or group
  name          text COLLATE "C" NOT NULL,
  sequence      bigint NOT NULL,
  delivered     bigint NOT NULL,
  lost          bigint NOT NULL,
  owner         text COLLATE "C" NOT NULL, -- who reads; empty when nobody does
  lease         bigint,                    -- until when
  failing_since bigint,
  last_error    text COLLATE "C" NOT NULL,
  delivery      bigint,
  PRIMARY KEY (hub, kind, name)
);
