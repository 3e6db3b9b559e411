-- minimum_reader = 1

-- Devices that have their messages in every connection that keeps its session: they asked for them once.
CREATE TABLE subscription (
  hub text COLLATE "C" NOT NULL,
  id  text COLLATE "C" NOT NULL,
  qos bigint NOT NULL,
  PRIMARY KEY (hub, id),
  FOREIGN KEY (hub, id) REFERENCES device (hub, id) ON DELETE CASCADE
);
