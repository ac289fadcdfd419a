{{/* What is read and written in namespaces: exactly what the enabled parts ask for (a watch lists first and needs no `get`). */}}
{{- define "wayspan.namespacedRules" -}}
{{- if include "wayspan.routes" . }}
- {apiGroups: [""], resources: [services], verbs: [list, watch]}
- {apiGroups: [discovery.k8s.io], resources: [endpointslices], verbs: [list, watch]}
{{- if .Values.rbac.secretResourceNames }}
{{- fail "rbac.secretResourceNames: not supported yet; the agent lists Secrets, and a role that names some allows no list: rbac.namespaced holds it to namespaces" }}
{{- end }}
- {apiGroups: [""], resources: [secrets], verbs: [list, watch]}
{{- end }}
{{- if .Values.providers.kubernetesIngress.enabled }}
- {apiGroups: [networking.k8s.io], resources: [ingresses], verbs: [list, watch]}
- {apiGroups: [networking.k8s.io], resources: [ingresses/status], verbs: [patch]}
{{- end }}
{{- if .Values.providers.kubernetesCRD.enabled }}
- {apiGroups: [traefik.io], resources: [ingressroutes, middlewares, traefikservices, serverstransports, tlsoptions, tlsstores], verbs: [list, watch]}
{{- end }}
{{- if .Values.providers.kubernetesGateway.enabled }}
- {apiGroups: [gateway.networking.k8s.io], resources: [gateways, listenersets, httproutes, referencegrants, backendtlspolicies], verbs: [list, watch]}
- {apiGroups: [gateway.networking.k8s.io], resources: [gateways/status, listenersets/status, httproutes/status, backendtlspolicies/status], verbs: [patch]}
{{- end }}
{{- if .Values.kubernetesMetadata.enabled }}
{{ include "wayspan.podRules" . }}
{{- end }}
{{- if include "wayspan.routes" . }}
- {apiGroups: [events.k8s.io], resources: [events], verbs: [create, patch]}
{{- end }}
{{- end -}}

{{/* What spans say of pods. */}}
{{- define "wayspan.podRules" -}}
- {apiGroups: [""], resources: [pods], verbs: [get, list, watch]}
{{- end -}}

{{/* What belongs to no namespace. */}}
{{- define "wayspan.clusterRules" -}}
{{- if or (include "wayspan.routes" .) .Values.kubernetesMetadata.enabled }}
- {apiGroups: [""], resources: [nodes], verbs: [list, watch]}
{{- end }}
{{- if .Values.providers.kubernetesIngress.enabled }}
- {apiGroups: [networking.k8s.io], resources: [ingressclasses], verbs: [list, watch]}
{{- end }}
{{- if .Values.providers.kubernetesGateway.enabled }}
- {apiGroups: [gateway.networking.k8s.io], resources: [gatewayclasses], verbs: [list, watch]}
- {apiGroups: [gateway.networking.k8s.io], resources: [gatewayclasses/status], verbs: [patch]}
- {apiGroups: [""], resources: [namespaces], verbs: [list, watch]}
{{- end }}
{{- if .Values.kubernetesMetadata.enabled }}
# Its uid is the cluster's.
- {apiGroups: [""], resources: [namespaces], resourceNames: [kube-system], verbs: [get]}
{{- end }}
{{- end -}}

{{/* What is read and written in the release's namespace, and is not yet in the rules of all namespaces. */}}
{{- define "wayspan.ownRules" -}}
{{- if include "wayspan.routes" . }}
# One of the pods writes statuses; which one, they settle here.
- {apiGroups: [coordination.k8s.io], resources: [leases], resourceNames: [{{ include "wayspan.lease" . }}], verbs: [get, update]}
# What is yet to be made has no name to be held to.
- {apiGroups: [coordination.k8s.io], resources: [leases], verbs: [create]}
{{- end }}
{{- $elsewhere := and .Values.rbac.namespaced (not (has .Release.Namespace (include "wayspan.roleNamespaces" . | fromJsonArray))) }}
{{- if and $elsewhere .Values.kubernetesMetadata.enabled }}
# Spans say of the agent's own pod what the API says of it.
- {apiGroups: [""], resources: [pods], verbs: [get]}
{{- end }}
{{- if include "wayspan.byNodes" . }}
# Where all of them are goes into statuses.
- {apiGroups: [""], resources: [pods], verbs: [list, watch]}
{{- end }}
{{- range $service := include "wayspan.statusServices" . | fromJsonArray }}
{{- if eq (splitList "/" $service | first) $.Release.Namespace }}
- {apiGroups: [""], resources: [services], resourceNames: [{{ splitList "/" $service | last }}], verbs: [list, watch]}
{{- end }}
{{- end }}
{{- end -}}

{{/* Gives the Role of a name in a namespace to the service account. */}}
{{- define "wayspan.roleBinding" -}}
{{- $root := index . 0 -}}{{- $name := index . 1 }}
apiVersion: rbac.authorization.k8s.io/v1
kind: RoleBinding
metadata:
  name: {{ $name }}
  namespace: {{ index . 2 }}
  labels: {{- include "wayspan.labels" $root | nindent 4 }}
roleRef: {apiGroup: rbac.authorization.k8s.io, kind: Role, name: {{ $name }}}
subjects: [{kind: ServiceAccount, name: {{ include "wayspan.serviceAccount" $root }}, namespace: {{ $root.Release.Namespace }}}]
{{- end -}}
