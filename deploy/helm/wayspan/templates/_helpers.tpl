{{- define "wayspan.name" -}}
{{- default .Chart.Name .Values.nameOverride | trunc 63 | trimSuffix "-" -}}
{{- end -}}

{{/* The name of a Service has 63 characters at most, and the api's has `-api` behind this. */}}
{{- define "wayspan.fullname" -}}
{{- if .Values.fullnameOverride -}}
{{- .Values.fullnameOverride | trunc 59 | trimSuffix "-" -}}
{{- else if contains (include "wayspan.name" .) .Release.Name -}}
{{- .Release.Name | trunc 59 | trimSuffix "-" -}}
{{- else -}}
{{- printf "%s-%s" .Release.Name (include "wayspan.name" .) | trunc 59 | trimSuffix "-" -}}
{{- end -}}
{{- end -}}

{{- define "wayspan.selector" -}}
app.kubernetes.io/name: {{ include "wayspan.name" . }}
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end -}}

{{- define "wayspan.labels" -}}
{{ include "wayspan.selector" . }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version | replace "+" "_" }}
{{- with .Values.commonLabels }}
{{ toYaml . }}
{{- end }}
{{- end -}}

{{- define "wayspan.serviceAccount" -}}
{{- if .Values.serviceAccount.create -}}
{{- default (include "wayspan.fullname" .) .Values.serviceAccount.name -}}
{{- else -}}
{{- default "default" .Values.serviceAccount.name -}}
{{- end -}}
{{- end -}}

{{/* Names of what is not in the release's namespace carry that namespace, or a hash where it is cut off: two releases of one name can
stand beside each other. */}}
{{- define "wayspan.clusterName" -}}
{{- $name := printf "%s-%s" (include "wayspan.fullname" .) .Release.Namespace -}}
{{- if gt (len $name) 63 -}}{{- $name = printf "%s-%s" (trunc 54 $name | trimSuffix "-") (sha256sum $name | trunc 8) -}}{{- end -}}
{{- $name -}}
{{- end -}}

{{- define "wayspan.image" -}}
{{- $image := .Values.image -}}
{{- $repository := $image.repository -}}
{{- if $image.registry -}}{{- $repository = printf "%s/%s" $image.registry $image.repository -}}{{- end -}}
{{- $tag := default .Chart.AppVersion $image.tag -}}
{{- if kindIs "float64" $tag -}}
{{- fail "image.tag: write it as a text, in quotes: as a number 1.10 is 1.1" -}}
{{- end -}}
{{- if $image.digest -}}
{{- printf "%s@%s" $repository $image.digest -}}
{{- else if eq (toString $tag) "latest" -}}
{{- fail "image.tag: latest is refused, since nobody can tell what ran: name a version" -}}
{{- else -}}
{{- printf "%s:%s" $repository (toString $tag) -}}
{{- end -}}
{{- end -}}

{{/* Whether the pod is in the node's network. */}}
{{- define "wayspan.hostNetwork" -}}
{{- if or .Values.hostNetwork .Values.seamless -}}true{{- end -}}
{{- end -}}

{{/* The port that an entry point listens on: in the node's network that is the node's. */}}
{{- define "wayspan.listen" -}}
{{- $root := index . 0 -}}{{- $port := index . 1 -}}
{{- if and (include "wayspan.hostNetwork" $root) $port.hostPort -}}{{ $port.hostPort }}{{- else -}}{{ $port.port }}{{- end -}}
{{- end -}}

{{/* The address that it listens at: in the node's network hostIP is one of the node's own. */}}
{{- define "wayspan.address" -}}
{{- $root := index . 0 -}}{{- $port := index . 1 -}}
{{- $ip := ternary (default "" $port.hostIP) "" (eq (include "wayspan.hostNetwork" $root) "true") -}}
{{- printf "%s:%s" (ternary (printf "[%s]" $ip) $ip (contains ":" $ip)) (include "wayspan.listen" .) -}}
{{- end -}}

{{/* The entry points that the Service has, by name; without any there is no Service. */}}
{{- define "wayspan.exposed" -}}
{{- $exposed := list -}}
{{- if .Values.service.enabled -}}
{{- range $name, $port := omit .Values.ports "api" -}}
{{- if dig "expose" "default" true $port -}}{{- $exposed = append $exposed $name -}}{{- end -}}
{{- end -}}
{{- end -}}
{{- join " " $exposed -}}
{{- end -}}

{{/* Whether anything of the API server is asked. */}}
{{- define "wayspan.asksApi" -}}
{{- with .Values -}}
{{- if or .providers.kubernetesCRD.enabled .providers.kubernetesIngress.enabled .providers.kubernetesGateway.enabled .kubernetesMetadata.enabled -}}true{{- end -}}
{{- end -}}
{{- end -}}

{{/* Whether routes come from objects of Kubernetes. */}}
{{- define "wayspan.routes" -}}
{{- with .Values.providers -}}
{{- if or .kubernetesCRD.enabled .kubernetesIngress.enabled .kubernetesGateway.enabled -}}true{{- end -}}
{{- end -}}
{{- end -}}

{{/* The Lease of the one who writes statuses: each release has its own. */}}
{{- define "wayspan.lease" -}}
{{- printf "%s-status" (include "wayspan.fullname" .) -}}
{{- end -}}

{{/* Whether clients come by the release's own Service: there is one, and it is a LoadBalancer, or no port of the nodes leads to the pods. */}}
{{- define "wayspan.byService" -}}
{{- $onNodes := or (include "wayspan.hostNetwork" .) (eq .Values.service.type "NodePort") -}}
{{- range $name, $port := omit .Values.ports "api" -}}{{- if $port.hostPort -}}{{- $onNodes = true -}}{{- end -}}{{- end -}}
{{- if and (include "wayspan.exposed" .) (or (eq .Values.service.type "LoadBalancer") (not $onNodes)) -}}true{{- end -}}
{{- end -}}

{{/* namespace/name of the Service whose addresses go into the status of Ingresses; none: those of the nodes go there. */}}
{{- define "wayspan.publishedService" -}}
{{- $published := .Values.providers.kubernetesIngress.publishedService -}}
{{- if $published.enabled -}}
{{- if $published.pathOverride -}}{{- $published.pathOverride -}}
{{- else if include "wayspan.byService" . -}}{{- printf "%s/%s" .Release.Namespace (include "wayspan.fullname" .) -}}
{{- end -}}
{{- end -}}
{{- end -}}

{{/* What goes into the status of Ingresses; nothing: the addresses of the nodes. */}}
{{- define "wayspan.ingressEndpoint" -}}
{{- $endpoint := dict -}}
{{- range $key, $text := .Values.providers.kubernetesIngress.ingressEndpoint -}}{{- if $text -}}{{- $_ := set $endpoint $key $text -}}{{- end -}}{{- end -}}
{{- if not $endpoint -}}{{- with include "wayspan.publishedService" . -}}{{- $_ := set $endpoint "publishedService" . -}}{{- end -}}{{- end -}}
{{- toYaml $endpoint -}}
{{- end -}}

{{/* What goes into the status of Gateways, likewise. */}}
{{- define "wayspan.statusAddress" -}}
{{- $given := .Values.providers.kubernetesGateway.statusAddress -}}
{{- $service := default dict $given.service -}}
{{- $address := dict -}}
{{- range $key := list "ip" "hostname" -}}{{- with index $given $key -}}{{- $_ := set $address $key . -}}{{- end -}}{{- end -}}
{{- if not $address -}}
{{- if dig "enabled" (or (hasKey $service "name") (eq (include "wayspan.byService" .) "true")) $service -}}
{{- if not (or $service.name (include "wayspan.exposed" .)) -}}
{{- fail "providers.kubernetesGateway.statusAddress.service: the release has no Service of its own, since no port is exposed; name one, or expose a port" -}}
{{- end -}}
{{- $name := default (include "wayspan.fullname" .) $service.name -}}
{{- $_ := set $address "service" (dict "name" $name "namespace" (default .Release.Namespace $service.namespace)) -}}
{{- end -}}
{{- end -}}
{{- toYaml $address -}}
{{- end -}}

{{/* Whose addresses go into the status of Gateways: nodes, service (the release's own), or other, of which nothing is known here. */}}
{{- define "wayspan.gatewaysAt" -}}
{{- $address := include "wayspan.statusAddress" . | fromYaml -}}
{{- $own := dict "name" (include "wayspan.fullname" .) "namespace" .Release.Namespace -}}
{{- if not $address -}}nodes{{- else if eq (toJson $address) (dict "service" $own | toJson) -}}service{{- else -}}other{{- end -}}
{{- end -}}

{{/* The ports of an entry point that those addresses have; what is not known may have all. */}}
{{- define "wayspan.publishedPorts" -}}
{{- $root := index . 0 -}}{{- $port := index . 2 -}}
{{- $at := include "wayspan.gatewaysAt" $root -}}
{{- $exposed := has (index . 1) (splitList " " (include "wayspan.exposed" $root)) -}}
{{- $all := list -}}
{{- if ne $at "service" -}}
{{- with $port.hostPort -}}{{- $all = append $all (int .) -}}{{- end -}}
{{- if and $exposed (ne $root.Values.service.type "ClusterIP") -}}{{- with $port.nodePort -}}{{- $all = append $all (int .) -}}{{- end -}}{{- end -}}
{{- end -}}
{{- if and $exposed (ne $at "nodes") -}}{{- $all = append $all (default $port.port $port.exposedPort | int) -}}{{- end -}}
{{- uniq $all | toJson -}}
{{- end -}}

{{/* Whether the addresses of the nodes go into a status. */}}
{{- define "wayspan.byNodes" -}}
{{- $ingress := and .Values.providers.kubernetesIngress.enabled (not (include "wayspan.ingressEndpoint" . | fromYaml)) -}}
{{- $gateway := and .Values.providers.kubernetesGateway.enabled (not (include "wayspan.statusAddress" . | fromYaml)) -}}
{{- if or $ingress $gateway -}}true{{- end -}}
{{- end -}}

{{/* The Services that are read for statuses: namespace/name of each. */}}
{{- define "wayspan.statusServices" -}}
{{- $all := list -}}
{{- if .Values.providers.kubernetesIngress.enabled -}}
{{- with (include "wayspan.ingressEndpoint" . | fromYaml).publishedService -}}{{- $all = append $all . -}}{{- end -}}
{{- end -}}
{{- if .Values.providers.kubernetesGateway.enabled -}}
{{- with (include "wayspan.statusAddress" . | fromYaml).service -}}{{- $all = append $all (printf "%s/%s" .namespace .name) -}}{{- end -}}
{{- end -}}
{{- uniq $all | sortAlpha | toJson -}}
{{- end -}}

{{/* The namespaces of whoever names none of its own: with rbac.namespaced alone. */}}
{{- define "wayspan.namespaces" -}}
{{- default (list .Release.Namespace) .Values.rbac.namespaces | uniq | toJson -}}
{{- end -}}

{{/* The namespaces that all rights are held to: those that are named for them, and all in which routes are watched. */}}
{{- define "wayspan.routeNamespaces" -}}
{{- $all := default list .Values.rbac.namespaces -}}
{{- $others := include "wayspan.namespaces" . | fromJsonArray -}}
{{- range $watching := list .Values.providers.kubernetesCRD .Values.providers.kubernetesIngress .Values.providers.kubernetesGateway -}}
{{- if $watching.enabled -}}{{- $all = concat $all (default $others $watching.namespaces) -}}{{- end -}}
{{- end -}}
{{- uniq $all | toJson -}}
{{- end -}}

{{/* Those, and all in which pods are watched. */}}
{{- define "wayspan.roleNamespaces" -}}
{{- $all := include "wayspan.routeNamespaces" . | fromJsonArray -}}
{{- $others := include "wayspan.namespaces" . | fromJsonArray -}}
{{- with .Values.kubernetesMetadata -}}
{{- if .enabled -}}{{- $all = concat $all (default $others .namespaces) -}}{{- end -}}
{{- end -}}
{{- uniq $all | toJson -}}
{{- end -}}

{{/* host:port of a collector, from Jaeger's values of Traefik v2. */}}
{{- define "wayspan.jaegerCollector" -}}
{{- $jaeger := .Values.tracing.jaeger -}}
{{- $named := default $jaeger.localAgentHostPort $jaeger.collector.endpoint -}}
{{- if $named -}}
{{- $host := regexReplaceAll "^[a-z]+://" $named "" | regexFind "^[^:/]+" -}}
{{- printf "%s:4317" $host -}}
{{- end -}}
{{- end -}}

{{/* The share of requests that is traced: ours, else from Jaeger's values of Traefik v2; nothing: as the agent has it. */}}
{{- define "wayspan.sampleRate" -}}
{{- $jaeger := .Values.tracing.jaeger -}}
{{- $type := default "const" $jaeger.samplingType -}}
{{- if not (kindIs "invalid" .Values.tracing.sampleRate) -}}
{{- float64 .Values.tracing.sampleRate -}}
{{- else if or (kindIs "invalid" $jaeger.samplingParam) (eq $type "rateLimiting") -}}
{{- else -}}
{{- $param := float64 $jaeger.samplingParam -}}
{{- if eq $type "const" -}}
{{- ternary 0 1 (eq $param 0.0) -}}
{{- else if or (lt $param 0.0) (gt $param 1.0) -}}
{{- fail (printf "tracing.jaeger.samplingParam: with samplingType %s it is a share between 0 and 1" $type) -}}
{{- else -}}
{{- $param -}}
{{- end -}}
{{- end -}}
{{- end -}}

{{/* Jaeger's values of Traefik v2 that are given and have no effect. */}}
{{- define "wayspan.jaegerUnused" -}}
{{- $jaeger := .Values.tracing.jaeger -}}
{{- $unused := list -}}
{{- if eq $jaeger.samplingType "rateLimiting" -}}{{- $unused = append $unused "samplingType: rateLimiting" -}}{{- end -}}
{{- range $key := list "propagation" "gen128Bit" "traceContextHeaderName" "disableAttemptReconnecting" -}}
{{- if not (has (index $jaeger $key) (list "" nil)) -}}{{- $unused = append $unused $key -}}{{- end -}}
{{- end -}}
{{- range $key := list "user" "password" -}}
{{- if index $jaeger.collector $key -}}{{- $unused = append $unused (printf "collector.%s" $key) -}}{{- end -}}
{{- end -}}
{{- join ", " $unused -}}
{{- end -}}

{{/* Whole seconds, rounded up, of a duration such as 1h30m or 500ms, or of a number of them. */}}
{{- define "wayspan.seconds" -}}
{{- $text := ternary (toString (int64 .)) (toString .) (kindIs "float64" .) -}}
{{- if regexMatch "^[0-9]+$" $text -}}
{{- $text -}}
{{- else if not (regexMatch "^([0-9]*[.]?[0-9]+(ns|us|µs|μs|ms|s|m|h))+$" $text) -}}
{{- fail (printf "ports: `%s` is no duration; write 10s, 1m30s or a number of seconds" $text) -}}
{{- else -}}
{{- $total := 0.0 -}}
{{- $units := dict "ns" 1e-9 "us" 1e-6 "µs" 1e-6 "μs" 1e-6 "ms" 1e-3 "s" 1.0 "m" 60.0 "h" 3600.0 -}}
{{- range regexFindAll "[0-9.]+[^0-9.]+" $text -1 -}}
{{- $total = addf $total (mulf (float64 (regexFind "^[0-9.]+" .)) (index $units (regexFind "[^0-9.]+$" .))) -}}
{{- end -}}
{{- ceil $total | int64 -}}
{{- end -}}
{{- end -}}

{{/* Whether a pod holds a port of its node. */}}
{{- define "wayspan.holds" -}}
{{- $holds := include "wayspan.hostNetwork" . -}}
{{- range $name, $port := omit .Values.ports "api" -}}{{- if $port.hostPort -}}{{- $holds = "true" -}}{{- end -}}{{- end -}}
{{- $holds -}}
{{- end -}}

{{- define "wayspan.isNone" -}}
{{- if has (toString .) (list "0" "0%") -}}true{{- end -}}
{{- end -}}

{{/* How an update goes, where nothing else is said: behind a Service the new pod is ready before the old one ends, but two pods of a
node cannot hold one port of it. */}}
{{- define "wayspan.rolling" -}}
{{- $given := default dict .Values.updateStrategy.rollingUpdate | deepCopy -}}
{{- $daemon := eq .Values.deployment.kind "DaemonSet" -}}
{{- $holds := include "wayspan.holds" . -}}
{{- $surges := and (hasKey $given "maxSurge") (not (include "wayspan.isNone" $given.maxSurge)) -}}
{{- $default := dict "maxUnavailable" 1 "maxSurge" 0 -}}
{{- if or (and (not $daemon) (not $holds)) (and $daemon $surges) -}}{{- $default = dict "maxUnavailable" 0 "maxSurge" 1 -}}{{- end -}}
{{- $rolling := mergeOverwrite $default $given -}}
{{- $noneAway := include "wayspan.isNone" $rolling.maxUnavailable -}}
{{- $noneMore := include "wayspan.isNone" $rolling.maxSurge -}}
{{- if and $daemon $holds (or $noneAway (not $noneMore)) -}}
{{- fail "updateStrategy.rollingUpdate: maxSurge must be 0 and maxUnavailable above 0, since two pods cannot hold one port of a node; or set seamless" -}}
{{- else if and $noneAway $noneMore -}}
{{- fail "updateStrategy.rollingUpdate: maxUnavailable and maxSurge are both 0, so no pod could ever be replaced" -}}
{{- else if and $daemon (not $noneAway) (not $noneMore) -}}
{{- fail "updateStrategy.rollingUpdate: of maxUnavailable and maxSurge one has to be 0 for a DaemonSet" -}}
{{- end -}}
{{- toYaml $rolling -}}
{{- end -}}

{{/* What an entry point is told of its connections, by root, name and port. Behind a Service clients come for as long as not all nodes
have heard that the pod ends. */}}
{{- define "wayspan.transport" -}}
{{- $root := index . 0 -}}{{- $port := index . 2 -}}
{{- $transport := default dict $port.transport | deepCopy -}}
{{- if kindIs "invalid" $transport.lifeCycle -}}{{- $transport = omit $transport "lifeCycle" -}}{{- end -}}
{{- $exposed := has (index . 1) (splitList " " (include "wayspan.exposed" $root)) -}}
{{- if and $exposed (not $port.hostPort) (not (include "wayspan.hostNetwork" $root)) -}}
{{- $transport = mergeOverwrite (dict "lifeCycle" (dict "requestAcceptGraceTimeout" "10s")) $transport -}}
{{- end -}}
{{- toYaml $transport -}}
{{- end -}}

{{/* How long the entry points may take to end, and five seconds to say so: all go on accepting for as long as one of them does. */}}
{{- define "wayspan.grace" -}}
{{- if .Values.deployment.terminationGracePeriodSeconds -}}
{{- .Values.deployment.terminationGracePeriodSeconds -}}
{{- else -}}
{{- $root := . -}}
{{- $accepts := 0 -}}{{- $ends := 0 -}}
{{- range $name, $port := omit .Values.ports "api" -}}
{{- $life := dig "lifeCycle" dict (include "wayspan.transport" (list $root $name $port) | fromYaml) -}}
{{- $accepts = max $accepts (include "wayspan.seconds" (default "0" $life.requestAcceptGraceTimeout) | int) -}}
{{- $ends = max $ends (include "wayspan.seconds" (default "10s" $life.graceTimeOut) | int) -}}
{{- end -}}
{{- add $accepts $ends 5 -}}
{{- end -}}
{{- end -}}

{{/* Whether listeners of Gateways may open ports of their own. */}}
{{- define "wayspan.openPorts" -}}
{{- $gateway := .Values.providers.kubernetesGateway -}}
{{- if and $gateway.enabled (ternary (eq (include "wayspan.hostNetwork" .) "true") (eq $gateway.openPorts true) (kindIs "invalid" $gateway.openPorts)) -}}true{{- end -}}
{{- end -}}

{{/* Whether the pod itself listens on ports below 1024, or may come to: Gateways name mostly 80 and 443. */}}
{{- define "wayspan.low" -}}
{{- $root := . -}}
{{- $low := include "wayspan.openPorts" . -}}
{{- range $name, $port := .Values.ports -}}
{{- if lt (include "wayspan.listen" (list $root $port) | int) 1024 -}}{{- $low = "true" -}}{{- end -}}
{{- end -}}
{{- $low -}}
{{- end -}}

{{/* What the container may do; docs/capabilities.md says for what. */}}
{{- define "wayspan.capabilities" -}}
{{- $add := list -}}
{{- if .Values.ebpf.enabled -}}{{- $add = list "BPF" "PERFMON" -}}{{- end -}}
{{- if include "wayspan.low" . -}}{{- $add = append $add "NET_BIND_SERVICE" -}}{{- end -}}
{{- concat $add .Values.ebpf.extraCapabilities | uniq | toJson -}}
{{- end -}}

{{- define "wayspan.securityContext" -}}
{{- $add := include "wayspan.capabilities" . | fromJsonArray -}}
{{- $capabilities := dict "drop" (list "ALL") -}}
{{- if $add -}}{{- $_ := set $capabilities "add" $add -}}{{- end -}}
{{- $context := dict "allowPrivilegeEscalation" false "readOnlyRootFilesystem" true "capabilities" $capabilities -}}
{{- $_ := set $context "seccompProfile" (dict "type" "RuntimeDefault") -}}
{{- if $add -}}
{{/* Kubernetes gives capabilities to no other user. */}}
{{- $_ := set $context "runAsUser" 0 -}}{{- $_ := set $context "runAsGroup" 0 -}}{{- $_ := set $context "runAsNonRoot" false -}}
{{- else -}}
{{- $_ := set $context "runAsUser" 65532 -}}{{- $_ := set $context "runAsGroup" 65532 -}}{{- $_ := set $context "runAsNonRoot" true -}}
{{- end -}}
{{- toYaml (mergeOverwrite $context .Values.securityContext) -}}
{{- end -}}
