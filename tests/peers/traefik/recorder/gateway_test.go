package gateway

import (
	"testing"

	"github.com/traefik/traefik/v3/pkg/config/dynamic"
	"github.com/traefik/traefik/v3/pkg/recorded"
)

func loadRecorded(t *testing.T, p *Provider) *dynamic.Configuration {
	t.Helper()
	conf := p.loadConfigurationFromGateways(t.Context())
	settings := map[string]any{
		"provider": p, "restrictsProviders": p.CrossProviderNamespaces != nil, "entryPoints": p.EntryPoints,
		"extended": len(p.groupKindFilterFuncs)+len(p.groupKindBackendFuncs) > 0,
	}
	recorded.Configuration(t, "gateway", nil, settings, conf)
	return conf
}
