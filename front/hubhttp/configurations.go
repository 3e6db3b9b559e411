package hubhttp

import (
	"context"
	"encoding/json"
	"net/http"
	"strconv"
	"time"

	"github.com/berth-iot/berth/access"
	"github.com/berth-iot/berth/device"
	"github.com/berth-iot/berth/errs"
	"github.com/berth-iot/berth/front/internal/rest"
	"github.com/berth-iot/berth/hub"
)

// maxConfiguration is the longest configuration that is read, in bytes.
const maxConfiguration = 512 << 10

const configurationsPath = "/configurations"

// configurationJSON is a configuration as the service API has it.
type configurationJSON struct {
	ID                 string            `json:"id"`
	SchemaVersion      string            `json:"schemaVersion"`
	Labels             map[string]string `json:"labels"`
	Content            contentJSON       `json:"content"`
	TargetCondition    string            `json:"targetCondition"`
	CreatedTimeUTC     string            `json:"createdTimeUtc"`
	LastUpdatedTimeUTC string            `json:"lastUpdatedTimeUtc"`
	Priority           int               `json:"priority"`
	SystemMetrics      metricsJSON       `json:"systemMetrics"`
	Metrics            metricsJSON       `json:"metrics"`
	ETag               string            `json:"etag"`
}

type contentJSON struct {
	DeviceContent  hub.Settings               `json:"deviceContent"`
	ModulesContent map[device.ID]hub.Settings `json:"modulesContent"`
	ModuleContent  hub.Settings               `json:"moduleContent"`
}

func (c contentJSON) decode() hub.ConfigurationContent {
	return hub.ConfigurationContent{Device: c.DeviceContent, Module: c.ModuleContent, Modules: c.ModulesContent}
}

// metricsJSON has queries and what they count, both by name.
type metricsJSON struct {
	Results map[string]int    `json:"results"`
	Queries map[string]string `json:"queries"`
}

func encodeMetrics(counted map[string]hub.ConfigurationMetric) metricsJSON {
	m := metricsJSON{make(map[string]int, len(counted)), make(map[string]string, len(counted))}
	for name, of := range counted {
		m.Queries[name] = of.Query
		if of.Counted {
			m.Results[name] = of.Count
		}
	}
	return m
}

// countingTime is how long the metrics of one answer are counted.
const countingTime = 10 * time.Second

// encodeConfiguration counts the metrics as they are now, as far as there is time.
func (a api) encodeConfiguration(counting context.Context, caller access.Caller, c *hub.Configuration) (configurationJSON, error) {
	system, custom, err := a.Service.ConfigurationMetrics(counting, caller, c)
	if err != nil {
		return configurationJSON{}, err
	}
	labels := c.Labels
	if labels == nil {
		labels = map[string]string{}
	}
	return configurationJSON{
		ID: c.ID, SchemaVersion: c.SchemaVersion, Labels: labels,
		Content:         contentJSON{c.Content.Device, c.Content.Modules, c.Content.Module},
		TargetCondition: c.TargetCondition, CreatedTimeUTC: hub.FormatTime(c.Created), LastUpdatedTimeUTC: hub.FormatTime(c.Updated), Priority: c.Priority,
		SystemMetrics: encodeMetrics(system), Metrics: encodeMetrics(custom), ETag: c.ETag,
	}, nil
}

func (a api) answerConfiguration(w http.ResponseWriter, r *rest.Request, caller access.Caller, c *hub.Configuration) error {
	counting, cancel := context.WithTimeout(r.Context(), countingTime)
	defer cancel()
	document, err := a.encodeConfiguration(counting, caller, c)
	if err != nil {
		return err
	}
	return answer(w, c.ETag, document)
}

func (a api) getConfiguration(w http.ResponseWriter, r *rest.Request, caller access.Caller, host string) error {
	c, err := a.Service.Configuration(r.Context(), caller, host, r.PathValue("configuration"))
	if err != nil {
		return err
	}
	return a.answerConfiguration(w, r, caller, c)
}

func (a api) listConfigurations(w http.ResponseWriter, r *rest.Request, caller access.Caller, host string) error {
	top := hub.MaxConfigurations
	if text := r.URL.Query().Get("top"); text != "" {
		n, err := strconv.ParseUint(text, 10, 31)
		if err != nil || n == 0 {
			return invalid("top must be a number from 1 to %d", hub.MaxConfigurations)
		}
		top = int(n)
	}
	all, err := a.Service.Configurations(r.Context(), caller, host)
	if err != nil {
		return err
	}
	counting, cancel := context.WithTimeout(r.Context(), countingTime)
	defer cancel()
	list := make([]configurationJSON, min(top, len(all)))
	for i := range list {
		if list[i], err = a.encodeConfiguration(counting, caller, all[i]); err != nil {
			return err
		}
	}
	return answerJSON(w, list)
}

func (a api) putConfiguration(w http.ResponseWriter, r *rest.Request, caller access.Caller, host string) error {
	var sent struct {
		ID              *string
		SchemaVersion   string
		Labels          map[string]string
		Content         contentJSON
		TargetCondition string
		Priority        int
		Metrics         metricsJSON
	}
	if err := readDocument(w, r, maxConfiguration, "configuration", &sent); err != nil {
		return err
	}
	id := r.PathValue("configuration")
	if sent.ID != nil && *sent.ID != id {
		return invalid("id is %.50q; the path says %.50q", *sent.ID, id)
	}
	c, err := a.Service.PutConfiguration(r.Context(), caller, hub.Configuration{
		Hub: host, ID: id, SchemaVersion: sent.SchemaVersion, Labels: sent.Labels, Content: sent.Content.decode(),
		TargetCondition: sent.TargetCondition, Priority: sent.Priority, Metrics: sent.Metrics.Queries,
	}, ifMatch(r))
	if err != nil {
		return err
	}
	return a.answerConfiguration(w, r, caller, c)
}

func (a api) deleteConfiguration(w http.ResponseWriter, r *rest.Request, caller access.Caller, host string) error {
	if err := a.Service.DeleteConfiguration(r.Context(), caller, host, r.PathValue("configuration"), ifMatch(r)); err != nil {
		return err
	}
	w.WriteHeader(http.StatusNoContent)
	return nil
}

// testQueries says what is wrong with a configuration that is not there yet.
func (a api) testQueries(w http.ResponseWriter, r *rest.Request, caller access.Caller, _ string) error {
	var sent struct {
		TargetCondition     string
		CustomMetricQueries map[string]string
	}
	if err := readDocument(w, r, maxConfiguration, "set of queries", &sent); err != nil {
		return err
	}
	target, metrics, err := a.Service.TestQueries(caller, sent.TargetCondition, sent.CustomMetricQueries)
	if err != nil {
		return err
	}
	return answerJSON(w, struct {
		Target  *string           `json:"targetConditionError"`
		Metrics map[string]string `json:"customMetricQueryErrors"`
	}{orNull(target), metrics})
}

func (a api) applyContent(w http.ResponseWriter, r *rest.Request, caller access.Caller, to target) error {
	var sent contentJSON
	if err := readDocument(w, r, maxConfiguration, "content of a configuration", &sent); err != nil {
		return err
	}
	if err := a.Service.ApplyContent(r.Context(), caller, to.place(), sent.decode()); err != nil {
		return err
	}
	w.WriteHeader(http.StatusNoContent)
	return nil
}

// readDocument reads a body of at most so many bytes into a value. Names are read
// without case.
func readDocument(w http.ResponseWriter, r *rest.Request, size int64, what string, v any) error {
	if err := rest.RequireJSON(r.Request); err != nil {
		return err
	}
	body, err := rest.ReadBody(w, r.Request, size)
	if err != nil {
		return err
	}
	if err := json.Unmarshal(body, v); err != nil {
		return errs.New(errs.Invalid, errs.CodeFormatError, "The body is not a %s in JSON", what).WithCause(err)
	}
	return nil
}
