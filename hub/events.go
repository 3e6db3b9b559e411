package hub

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"sync/atomic"
	"time"

	"github.com/berth-iot/berth/hub/twin"
)

// Events are messages that the hub itself puts into its stream: of a change of a
// twin, of the life of an identity and of a connection. It does so where a route of
// the hub takes them, after what they tell of was written: a server that is killed
// in between leaves one out.
type events struct {
	wanted atomic.Pointer[func(hub string, s Source) bool]
	lost   atomic.Uint64
}

// eventPatience is how long an event waits for messages before it.
const eventPatience = 5 * time.Second

// Want has the events put into the streams of hubs, from now on, that wanted says.
// wanted must not wait.
func (s *Service) Want(wanted func(hub string, source Source) bool) { s.events.wanted.Store(&wanted) }

// LostEvents counts the events that could not be put into a stream.
func (s *Service) LostEvents() uint64 { return s.events.lost.Load() }

func (s *Service) wants(hub string, source Source) bool {
	wanted := s.events.wanted.Load()
	return wanted != nil && (*wanted)(hub, source)
}

// systemTime is how system properties have a time.
func systemTime(t time.Time) string { return t.UTC().Format("2006-01-02T15:04:05.0000000Z") }

// emit puts an event into the stream. It does not wait until that is durable.
func (s *Service) emit(source Source, at Place, operation, schema string, body []byte) {
	now := s.now()
	system := map[string]string{
		"content-type": "application/json", "content-encoding": "utf-8",
		messageSource: source.property(), enqueuedTime: systemTime(now), connectionDeviceID: string(at.ID),
	}
	properties := map[string]string{
		"hubName": at.Hub, "deviceId": string(at.ID), "opType": operation, "operationTimestamp": systemTime(now),
		"iothub-message-schema": schema,
	}
	if at.Module != "" {
		properties["moduleId"], system[connectionModuleID] = string(at.Module), string(at.Module)
	}
	m := &Message{Hub: at.Hub, DeviceID: at.ID, ModuleID: at.Module, Enqueued: now, System: system, Properties: properties, Body: body}
	kept := func(err error) {
		if err != nil {
			s.events.lost.Add(1)
		}
	}
	ctx, cancel := context.WithTimeout(context.Background(), eventPatience)
	defer cancel()
	if err := s.intake.add(ctx, s.stream, arrival{message: m, kept: kept}); err != nil {
		kept(err)
	}
}

// What happened, as the property opType has it.
const (
	updateTwin  = "updateTwin"
	replaceTwin = "replaceTwin"
)

// twinChanged tells of a twin that was written: what changed of it, or with the
// operation replaceTwin all that operators write.
func (s *Service) twinChanged(at Place, operation string, before, after *Twin) {
	if before == nil || after == nil || before.Version == after.Version || !s.wants(at.Hub, TwinChangeEvents) {
		return
	}
	s.emit(TwinChangeEvents, at, operation, "twinChangeNotification", twinChange(operation, before, after))
}

// twinChange is the body of an event.
func twinChange(operation string, before, after *Twin) []byte {
	part := func(section twin.Section, was, is json.RawMessage) json.RawMessage {
		if operation == replaceTwin {
			return is
		}
		patch, err := section.Difference(was, is)
		if err != nil {
			return is // both were checked when they were written
		}
		return patch
	}
	b := fmt.Appendf(nil, `{"version":%d`, after.Version)
	if operation == replaceTwin || !bytes.Equal(before.Tags, after.Tags) {
		b = append(append(b, `,"tags":`...), part(twin.Tags, before.Tags, after.Tags)...)
	}
	desired := operation == replaceTwin || before.DesiredVersion != after.DesiredVersion
	reported := before.ReportedVersion != after.ReportedVersion
	if desired || reported {
		b = append(b, `,"properties":{`...)
		if desired {
			b = appendPatch(append(b, `"desired":`...), twin.Desired, part(twin.Desired, before.Desired, after.Desired), after.desired().written)
		}
		if desired && reported {
			b = append(b, ',')
		}
		if reported {
			b = appendPatch(append(b, `"reported":`...), twin.Reported, part(twin.Reported, before.Reported, after.Reported), after.reported().written)
		}
		b = append(b, '}')
	}
	return append(b, '}')
}

// appendPatch appends what became of a section, all of it at one time.
func appendPatch(b []byte, of twin.Section, patch json.RawMessage, written twin.Stamp) []byte {
	return append(b, of.Document(patch, fmt.Appendf(nil, `{"$lastUpdated":%q}`, systemTime(written.Updated)), written)...)
}

// identityChanged tells that an identity was created, when before is nil, or
// deleted, when after is; t is its twin then.
func (s *Service) identityChanged(before, after *Identity, t *Twin) {
	of, operation := after, "create"
	switch {
	case before != nil && after != nil, before == nil && after == nil, t == nil:
		return
	case after == nil:
		of, operation = before, "delete"
	}
	if !s.wants(of.Hub, DeviceLifecycleEvents) {
		return
	}
	if operation += "DeviceIdentity"; of.Module != "" {
		operation = operation[:len(operation)-len("DeviceIdentity")] + "ModuleIdentity"
	}
	s.emit(DeviceLifecycleEvents, of.Place, operation, "deviceLifecycleNotification", lifecycleBody(of, t))
}

// lifecycleBody is the body of an event of an identity's life.
func lifecycleBody(of *Identity, t *Twin) []byte {
	id, _ := json.Marshal(of.ID) // text
	b := append([]byte(`{"deviceId":`), id...)
	if of.Module != "" {
		module, _ := json.Marshal(of.Module)
		b = append(append(b, `,"moduleId":`...), module...)
	}
	etag, _ := json.Marshal(t.ETag())
	b = append(append(b, `,"etag":`...), etag...)
	return fmt.Appendf(b, `,"version":%d,"tags":%s,"properties":{"desired":%s,"reported":%s}}`, t.Version, t.Tags, t.DesiredDocument(), t.ReportedDocument())
}

// connectionChanged tells that a device connected, or that the connection is over
// that it made at the stamp. The numbers in the bodies are in the order of what
// happened to a device, on whatever servers: the end of a connection is above its
// beginning and below the beginning of the next.
func (s *Service) connectionChanged(at Place, stamp Stamp, connected bool) {
	if !s.wants(at.Hub, DeviceConnectionStateEvents) {
		return
	}
	operation, last := "deviceConnected", 0
	if !connected {
		operation, last = "deviceDisconnected", 1
	}
	if at.Module != "" {
		operation = "module" + operation[len("device"):]
	}
	body := fmt.Appendf(nil, `{"sequenceNumber":"%032X%016X%016X"}`, stamp.Time, stamp.Server, last)
	s.emit(DeviceConnectionStateEvents, at, operation, "deviceConnectionStateNotification", body)
}

type afterCommitKey struct{}

// AfterCommit returns a context for a transaction: what is to happen once that is
// committed is added to after.
func AfterCommit(ctx context.Context, after *[]func()) context.Context {
	return context.WithValue(ctx, afterCommitKey{}, after)
}

// committed runs f now, or when the transaction of ctx is committed.
func committed(ctx context.Context, f func()) {
	if after, ok := ctx.Value(afterCommitKey{}).(*[]func()); ok {
		*after = append(*after, f)
		return
	}
	f()
}
