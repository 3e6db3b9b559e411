ALTER TABLE enrollment ADD COLUMN tpm_group TEXT; -- JSON
ALTER TABLE registration ADD COLUMN endorsement_key BLOB; -- TPM2B_PUBLIC of a device of a TPM group

-- The endorsement keys of a TPM group, apart from the group because they can be many and few calls need them.
CREATE TABLE endorsement_key_list (
  scope     TEXT NOT NULL REFERENCES scope (id),
  group_key TEXT NOT NULL,
  keys      BLOB NOT NULL,
  PRIMARY KEY (scope, group_key)
) STRICT;
