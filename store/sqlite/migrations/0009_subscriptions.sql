-- Devices that have their messages in every connection that keeps its session: they asked for them once.
CREATE TABLE subscription (
  hub TEXT NOT NULL,
  id  TEXT NOT NULL,
  qos INTEGER NOT NULL,
  PRIMARY KEY (hub, id),
  FOREIGN KEY (hub, id) REFERENCES device (hub, id) ON DELETE CASCADE
) STRICT, WITHOUT ROWID;
