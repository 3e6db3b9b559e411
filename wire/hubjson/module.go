package hubjson

import (
	"encoding/json"

	"github.com/berth-iot/berth/device"
)

// A Module is an entry of the identity registry for a module of a device. The hub
// sets GenerationID, ETag and ConnectionState; it ignores them in what it is sent.
type Module struct {
	ModuleID        device.ID      `json:"moduleId"`
	ManagedBy       string         `json:"managedBy,omitempty"`
	DeviceID        device.ID      `json:"deviceId"`
	GenerationID    string         `json:"generationId,omitempty"`
	ETag            string         `json:"etag,omitempty"`
	ConnectionState string         `json:"connectionState,omitempty"`
	Authentication  Authentication `json:"authentication"`
}

// A Configuration is an automatic device configuration or an IoT Edge deployment.
// The hub sets CreatedTimeUTC, LastUpdatedTimeUTC, SystemMetrics, the results of
// Metrics and ETag; it ignores them in what it is sent.
type Configuration struct {
	ID                 string            `json:"id"`
	SchemaVersion      string            `json:"schemaVersion,omitempty"`
	Labels             map[string]string `json:"labels,omitempty"`
	Content            Content           `json:"content"`
	TargetCondition    string            `json:"targetCondition"`
	Priority           int               `json:"priority"`
	SystemMetrics      *Metrics          `json:"systemMetrics,omitempty"`
	Metrics            *Metrics          `json:"metrics,omitempty"`
	CreatedTimeUTC     string            `json:"createdTimeUtc,omitempty"`
	LastUpdatedTimeUTC string            `json:"lastUpdatedTimeUtc,omitempty"`
	ETag               string            `json:"etag,omitempty"`
}

// A Content is what a configuration sets: values by their places in twins, which are
// "properties.desired" or a path below it. One member is not nil.
type Content struct {
	DeviceContent  map[string]json.RawMessage            `json:"deviceContent,omitempty"`
	ModulesContent map[string]map[string]json.RawMessage `json:"modulesContent,omitempty"`
	ModuleContent  map[string]json.RawMessage            `json:"moduleContent,omitempty"`
}

// Metrics are queries, and what they count, by name.
type Metrics struct {
	Results map[string]int    `json:"results,omitempty"`
	Queries map[string]string `json:"queries"`
}
