-- minimum_reader = 1

-- A registration under way: what it still needs, and when somebody is to work on it.
ALTER TABLE registration ADD COLUMN pending text COLLATE "C"; -- JSON
ALTER TABLE registration ADD COLUMN due bigint;
CREATE INDEX registration_due ON registration (due) WHERE due IS NOT NULL;

-- How to reach a hub elsewhere: a shared access policy of it. Hubs of these servers have none.
ALTER TABLE linked_hub ADD COLUMN policy text COLLATE "C" NOT NULL DEFAULT '';
ALTER TABLE linked_hub ADD COLUMN keys bytea;
ALTER TABLE linked_hub ADD COLUMN latency text COLLATE "C"; -- JSON

ALTER TABLE scope ADD COLUMN hosts text COLLATE "C";  -- JSON
ALTER TABLE scope ADD COLUMN limits text COLLATE "C"; -- JSON
ALTER TABLE scope ADD COLUMN shared_keys text COLLATE "C" NOT NULL DEFAULT 'warn';

CREATE TABLE ca_certificate (
  scope             text COLLATE "C" NOT NULL REFERENCES scope (id),
  name              text COLLATE "C" NOT NULL,
  certificate       bytea NOT NULL, -- DER
  verified          boolean NOT NULL,
  verification_code text COLLATE "C" NOT NULL,
  etag              text COLLATE "C" NOT NULL,
  created           bigint,
  updated           bigint
);

CREATE UNIQUE INDEX ca_certificate_name ON ca_certificate (scope, lower(name));

-- Every import into a scope's trust store and every removal from it makes a version.
CREATE TABLE trust_version (
  scope   text COLLATE "C" NOT NULL REFERENCES scope (id),
  version bigint NOT NULL,
  time    bigint NOT NULL,
  policy  text COLLATE "C" NOT NULL, -- whose caller did it
  source  text COLLATE "C" NOT NULL,
  digest  text COLLATE "C" NOT NULL,
  added   bigint NOT NULL,
  removed bigint NOT NULL,
  PRIMARY KEY (scope, version)
);

CREATE TABLE trust_anchor (
  scope       text COLLATE "C" NOT NULL REFERENCES scope (id),
  thumbprint  text COLLATE "C" NOT NULL, -- SHA-256 of the certificate
  added       bigint NOT NULL, -- the version that brought it
  removed     bigint,          -- the version that took it away
  certificate bytea NOT NULL,  -- DER
  root        boolean NOT NULL, -- whether paths may end here
  vendor      text COLLATE "C" NOT NULL,
  file        text COLLATE "C" NOT NULL,
  test        boolean NOT NULL, -- of a software TPM
  PRIMARY KEY (scope, thumbprint, added)
);

-- Which individual enrollments have a symmetric key, found by a digest of it that only the servers can make.
CREATE TABLE symmetric_key_use (
  scope  text COLLATE "C" NOT NULL,
  digest bytea NOT NULL,
  key    text COLLATE "C" NOT NULL, -- of the enrollment
  PRIMARY KEY (scope, digest, key)
);

-- One row, when the keys of all enrollments from before are in symmetric_key_use.
CREATE TABLE symmetric_keys_known (
  id integer PRIMARY KEY CHECK (id = 1)
);

-- The hubs of these servers, each of one scope, also while they are not linked.
CREATE TABLE hub (
  name  text COLLATE "C" PRIMARY KEY, -- host name in lower case without the port
  scope text COLLATE "C" NOT NULL REFERENCES scope (id)
);

INSERT INTO hub SELECT lower(split_part(host, ':', 1)), min(scope) FROM linked_hub GROUP BY 1;
INSERT INTO hub
  SELECT substr(owner, 5), (SELECT min(id) FROM scope) FROM policy WHERE owner LIKE 'hub:%' AND EXISTS (SELECT 1 FROM scope) GROUP BY 1
  ON CONFLICT DO NOTHING;
