-- minimum_reader = 1

-- Times are nanoseconds since 1970-01-01 UTC, NULL where there is none: timestamptz would round them. JSON is kept as
-- the text it came in. Text is compared by its bytes, and lower() of it changes ASCII alone. Columns named "keys" are
-- sealed: store/internal/sealed says what is in them.

-- One row: a known text sealed under the servers' key, so that a wrong key is noticed before it does harm.
CREATE TABLE seal_check (
  id     integer PRIMARY KEY CHECK (id = 1),
  sealed bytea NOT NULL
);

-- "message" is the newest sequence number of the stream. "change" counts the transactions that changed what servers
-- keep in memory. Both are updated often, and in place while their page has room.
CREATE TABLE counter (
  name  text COLLATE "C" PRIMARY KEY,
  value bigint NOT NULL
) WITH (fillfactor = 10);

INSERT INTO counter VALUES ('change', 0), ('message', 0);

CREATE TABLE scope (
  id         text COLLATE "C" PRIMARY KEY,
  allocation text COLLATE "C" NOT NULL
);

CREATE TABLE linked_hub (
  scope      text COLLATE "C" NOT NULL REFERENCES scope (id),
  host       text COLLATE "C" NOT NULL,
  weight     bigint NOT NULL,
  allocation boolean NOT NULL
);

CREATE UNIQUE INDEX linked_hub_host ON linked_hub (scope, lower(host));

CREATE TABLE policy (
  owner  text COLLATE "C" NOT NULL,
  name   text COLLATE "C" NOT NULL,
  rights bigint NOT NULL,
  keys   bytea
);

CREATE UNIQUE INDEX policy_name ON policy (owner, lower(name));

CREATE TABLE enrollment (
  scope               text COLLATE "C" NOT NULL REFERENCES scope (id),
  kind                text COLLATE "C" NOT NULL,
  key                 text COLLATE "C" NOT NULL, -- id in lower case
  id                  text COLLATE "C" NOT NULL,
  mechanism           text COLLATE "C" NOT NULL,
  device_id           text COLLATE "C" NOT NULL,
  device_information  text COLLATE "C",          -- JSON
  keys                bytea,                     -- symmetricKey
  x509_use            text COLLATE "C" NOT NULL, -- x509
  x509_primary        bytea,                     -- DER
  x509_secondary      bytea,                     -- DER
  x509_primary_name   text COLLATE "C" NOT NULL, -- of a CA kept by the service
  x509_secondary_name text COLLATE "C" NOT NULL,
  endorsement_key     bytea,                     -- tpm: TPM2B_PUBLIC
  storage_root_key    bytea,                     -- tpm: TPM2B_PUBLIC
  disabled            boolean NOT NULL,
  iot_edge            boolean NOT NULL,
  twin                boolean NOT NULL,          -- whether there is an initial twin
  twin_tags           text COLLATE "C",          -- JSON
  twin_desired        text COLLATE "C",          -- JSON
  reprovision         text COLLATE "C",          -- JSON
  allocation          text COLLATE "C" NOT NULL,
  hubs                text COLLATE "C",          -- JSON
  hub                 text COLLATE "C" NOT NULL,
  custom_allocation   text COLLATE "C",          -- JSON
  credential_policy   text COLLATE "C" NOT NULL,
  etag                text COLLATE "C" NOT NULL,
  created             bigint,
  updated             bigint,
  tpm_group           text COLLATE "C",          -- JSON; of a group of TPMs
  PRIMARY KEY (scope, kind, key)
);

CREATE INDEX enrollment_group ON enrollment (scope, mechanism, key) WHERE kind = 'group';

-- The keys of a TPM group's list stand beside the enrollment: it is read on every registration, they seldom.
CREATE TABLE endorsement_key_list (
  scope     text COLLATE "C" NOT NULL REFERENCES scope (id),
  group_key text COLLATE "C" NOT NULL,
  keys      bytea NOT NULL,
  PRIMARY KEY (scope, group_key)
);

CREATE TABLE registration (
  scope            text COLLATE "C" NOT NULL,
  key              text COLLATE "C" NOT NULL, -- id in lower case
  id               text COLLATE "C" NOT NULL,
  group_id         text COLLATE "C" NOT NULL,
  attestation      text COLLATE "C" NOT NULL,
  status           text COLLATE "C" NOT NULL,
  substatus        text COLLATE "C" NOT NULL,
  hub              text COLLATE "C" NOT NULL,
  device_id        text COLLATE "C" NOT NULL,
  error_code       bigint NOT NULL,
  error_message    text COLLATE "C" NOT NULL,
  payload          text COLLATE "C",          -- JSON
  operation_id     text COLLATE "C" NOT NULL,
  etag             text COLLATE "C" NOT NULL,
  created          bigint,
  updated          bigint,
  hub_key_blob     bytea,                     -- only the device's TPM can open it
  endorsement_key  bytea,                     -- TPM2B_PUBLIC
  storage_root_key bytea,                     -- TPM2B_PUBLIC
  PRIMARY KEY (scope, key)
);

CREATE INDEX registration_group ON registration (scope, lower(group_id), key) WHERE group_id <> '';

CREATE TABLE device (
  hub                  text COLLATE "C" NOT NULL,
  id                   text COLLATE "C" NOT NULL, -- case-sensitive
  generation_id        text COLLATE "C" NOT NULL,
  etag                 text COLLATE "C" NOT NULL,
  disabled             boolean NOT NULL,
  status_reason        text COLLATE "C" NOT NULL,
  status_updated       bigint,
  iot_edge             boolean NOT NULL,
  authentication       text COLLATE "C" NOT NULL,
  keys                 bytea,
  primary_thumbprint   text COLLATE "C" NOT NULL,
  secondary_thumbprint text COLLATE "C" NOT NULL,
  twin_version         bigint,                    -- NULL where there is no twin
  tags                 text COLLATE "C",          -- JSON
  desired              text COLLATE "C",          -- JSON
  desired_version      bigint,
  desired_updated      bigint,
  reported             text COLLATE "C",          -- JSON
  reported_version     bigint,
  reported_updated     bigint,
  PRIMARY KEY (hub, id)
);

-- Few devices are disabled, and their number is asked for without the others.
CREATE INDEX device_disabled ON device (hub) WHERE disabled;

CREATE TABLE message (
  sequence   bigint PRIMARY KEY,
  hub        text COLLATE "C" NOT NULL,
  device_id  text COLLATE "C" NOT NULL,
  enqueued   bigint NOT NULL,
  system     text COLLATE "C", -- JSON
  properties text COLLATE "C", -- JSON
  body       bytea
);

CREATE INDEX message_hub ON message (hub, sequence);
CREATE INDEX message_enqueued ON message (enqueued);
