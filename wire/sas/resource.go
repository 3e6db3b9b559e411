package sas

import "strings"

// DeviceResource names what a device's token for the provisioning service is for: {scope}/registrations/{id}.
func DeviceResource(scope, registrationID string) string {
	return scope + "/registrations/" + registrationID
}

// HubDeviceResource names a device of a hub: {host}/devices/{deviceID}.
func HubDeviceResource(host, deviceID string) string {
	return host + "/devices/" + deviceID
}

// SameResource reports whether presented, the [Token.Resource] of a device's provisioning token, is the resource
// wanted. ASCII case does not matter: one client lowers the case of the whole resource before it signs.
func SameResource(presented, want string) bool {
	return want != "" && equalFold(presented, want)
}

// HostResource reports whether presented, the [Token.Resource] of a service API token, names host. Clients sign the
// bare host name, host:port, or the whole endpoint URL as they were given it; the scheme https, a port, a trailing
// slash and case do not matter.
func HostResource(presented, host string) bool {
	name := hostname(strings.TrimSuffix(trimScheme(presented), "/"))
	return name != "" && equalFold(name, hostname(host))
}

// Covers reports whether presented, the [Token.Resource] of a hub token, is resource or a whole-segment prefix of it:
// a token for {host}/devices/d is good for d's messages, and not for {host}/devices/d2. The host of either may have a
// port, and presented may start with https:// and end in a slash; case does not matter. resource must be built by this
// package's functions, perhaps with a path appended, from a host the server calls its own.
func Covers(presented, resource string) bool {
	host, path, _ := strings.Cut(strings.TrimSuffix(trimScheme(presented), "/"), "/")
	ownHost, ownPath, _ := strings.Cut(resource, "/")
	if host = hostname(host); host == "" || !equalFold(host, hostname(ownHost)) {
		return false
	}
	if path == "" {
		return true
	}
	if len(path) > len(ownPath) || !equalFold(path, ownPath[:len(path)]) {
		return false
	}
	return len(path) == len(ownPath) || ownPath[len(path)] == '/'
}

func trimScheme(s string) string {
	const https = "https://"
	if len(s) >= len(https) && equalFold(s[:len(https)], https) {
		return s[len(https):]
	}
	return s
}

// hostname returns authority without its port. An IPv6 address has a port only if it is in brackets.
func hostname(authority string) string {
	i := strings.LastIndexByte(authority, ':')
	if i < 0 || strings.Trim(authority[i+1:], "0123456789") != "" {
		return authority
	}
	host := authority[:i]
	if strings.Contains(host, ":") && !strings.HasSuffix(host, "]") {
		return authority
	}
	return host
}

// equalFold is strings.EqualFold for ASCII letters alone: a Kelvin sign is not a k.
func equalFold(a, b string) bool {
	if len(a) != len(b) {
		return false
	}
	for i := range len(a) {
		if lower(a[i]) != lower(b[i]) {
			return false
		}
	}
	return true
}

func lower(c byte) byte {
	if 'A' <= c && c <= 'Z' {
		return c + ('a' - 'A')
	}
	return c
}
