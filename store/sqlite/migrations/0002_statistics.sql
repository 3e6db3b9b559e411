-- Few devices are disabled, and their number is asked for without the others.
CREATE INDEX device_disabled ON device (hub) WHERE disabled <> 0;
