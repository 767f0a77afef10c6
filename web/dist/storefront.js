import{C as e,T as t,_ as n,b as r,c as i,g as a,h as o,n as s,p as c,r as l,s as u,v as d,w as f,x as p,y as m}from"./chunks/sdk.js";import{i as h,n as g,r as _,t as ee}from"./chunks/element.js";var te=t(btoa(`
/rimlight/verifier/v1/test_payment_service.protorimlight.verifier.v1"C
CompleteActionRequest
payment_intent_id (	
\x07decline (\b"
CompleteActionResponse2
TestPaymentServicep
CompleteAction+.rimlight.verifier.v1.CompleteActionRequest,.rimlight.verifier.v1.CompleteActionResponse"bproto3`)),ne=d(te,0);function v(e,t=``,...n){let r=document.createElement(e);return t&&(r.className=t),r.append(...n.filter(e=>e!==void 0&&e!==!1)),r}function y(e){let t=document.getElementById(e);if(!t)throw Error(`the page has no #${e}`);return t}function b(e,t,n){let r=v(`button`,t,e);return r.type=`button`,r.addEventListener(`click`,n),r}function x(e){return`${e<10?e.toFixed(1):Math.round(e)} ms`}var S={accepted:`accepted`,received:`at the verifier`,unit_settled:`unit set aside`,action_required:`needs you`,captured:`paid (TEST)`,ordered:`ordered`,shipped:`shipped`,delivered:`delivered`,choice_required:`your choice`,refunding:`refunding`,refunded:`refunded`,voucher:`voucher`,refused:`refused`},re=class{purchaseId;acts;element;#e=v(`dl`,`figures`);#t=v(`div`,`why`);#n=v(`p`,`receipt`,`Verifying the receipt…`);#r=v(`ol`,`steps`);#i=v(`p`,`outcome`);#a=v(`p`,`actions`);#o=v(`p`,`actions`);#s=``;constructor(e,t,n,r){this.purchaseId=e,this.acts=r,this.#i.setAttribute(`role`,`status`);let i=v(`header`,``,v(`h3`,``,t),v(`p`,`quiet`,`${s(n)} `,v(`span`,`tag`,`TEST`)));this.#a.hidden=this.#o.hidden=!0,this.element=v(`li`,`purchase`,i,this.#e,this.#t,this.#n,this.#r,this.#i,this.#a,this.#o),this.element.dataset.purchase=e}accepted(e,t,n){let r=(e,t,n=``)=>v(`div`,``,v(`dt`,``,e),v(`dd`,n,t));this.#e.replaceChildren(...e===void 0?[]:[r(`Tap to verified receipt`,x(e),`big`)],r(`Accepted in`,t),...n?[r(`Through router`,n)]:[])}explained(e){this.#t.replaceChildren(...e)}verified(e){this.#n.dataset.verified=`true`;let t=v(`details`,``,v(`summary`,``,`The receipt`),v(`pre`,``,e));this.#n.replaceChildren(v(`span`,`good`,`✓ Receipt verified`),` against the published keys, and kept in this browser.`),this.#n.nextElementSibling?.classList.contains(`told`)||this.#n.after(v(`div`,`told`,t))}doubtful(e){this.#n.replaceChildren(v(`span`,`bad`,e)),this.#c(b(`Forget it`,`plain`,()=>void this.acts.forget(this.purchaseId)))}changed(e){if(e.state!==this.#s&&this.#r.append(v(`li`,``,S[e.state]??e.state)),this.#s=e.state,this.element.dataset.state=e.state,this.#i.textContent=h(e,_),e.reason&&this.#i.append(` Why: ${e.reason.toLowerCase().replaceAll(`_`,` `)}.`),e.final&&this.#i.append(` The verifier's signature under this was verified.`),e.licenceKey&&(this.#a.replaceChildren(`Your licence key: `,v(`code`,`key`,e.licenceKey)),this.#a.hidden=!1),e.state===`action_required`&&e.paymentIntentId){let t=t=>void this.acts.complete(e.paymentIntentId,t);this.#c(b(`Confirm the TEST payment`,``,()=>t(!1)),b(`Say no`,`plain`,()=>t(!0)))}else if(e.state===`choice_required`){let e=e=>void this.acts.choose(this.purchaseId,e);this.#c(b(_.takeVoucher,``,()=>e(`voucher`)),b(_.takeMoney,`plain`,()=>e(`money`)))}else if(e.final){let{voucher:t}=e,n=b(`Forget it`,`plain`,()=>void this.acts.forget(this.purchaseId));t?.text?this.#c(b(`Use this voucher`,``,()=>this.acts.spend(t)),n):this.#c(n)}else this.#o.hidden=!0}#c(...e){this.#o.contains(document.activeElement)&&(this.element.tabIndex=-1,this.element.focus({preventScroll:!0})),this.#o.replaceChildren(...e),this.#o.hidden=!1}},ie=t(btoa(`
!rimlight/router/v1/decision.protorimlight.router.v1"¤
	Candidate
region (	
\x07node_id (	7
\rfilter_reason (2 .rimlight.router.v1.FilterReason*
\x07network (\v2.google.protobuf.Duration4
network_deviation (\v2.google.protobuf.Duration*
\x07service (\v2.google.protobuf.Duration'
wait\x07 (\v2.google.protobuf.Duration
	in_flight\b (\r
\vparallelism	 (\r
\fsuccess_rate
 (+
\bexpected\v (\v2.google.protobuf.Duration
\vutilisation\f (
\x07suspect\r (\b

held_share (/
\ffailure_time (\v2.google.protobuf.Duration0
\rnetwork_floor (\v2.google.protobuf.Duration"
\x07Attempt
region (	
\x07node_id (	/
\fstart_offset (\v2.google.protobuf.Duration+
\bduration (\v2.google.protobuf.Duration
\vstatus_code (*
reason (2.rimlight.errors.v1.Reason,
	residence\x07 (\v2.google.protobuf.Duration
\bgiven_up\b (\b"ö
Choice1

candidates (\v2.rimlight.router.v1.Candidate
region (	
\x07node_id (	*
regime (2.rimlight.router.v1.Regime
\vexplanation (	
snapshot_version (/
\fsnapshot_age\x07 (\v2.google.protobuf.Duration\f
draw\b ("Ä
\bDecision
\vdecision_id (	
router (	(
time (\v2.google.protobuf.Timestamp
method (	
\x07drop_id (	)
budget (\v2.google.protobuf.Duration
residency_zones\x07 (	+
\x07choices\b (\v2.rimlight.router.v1.Choice-
\battempts	 (\v2\x1B.rimlight.router.v1.Attempt(
total
 (\v2.google.protobuf.Duration*ª
\fFilterReason
FILTER_REASON_UNSPECIFIED\0\x1B
FILTER_REASON_RESIDENCY
FILTER_REASON_NO_STOCK
FILTER_REASON_DRAINING
FILTER_REASON_UNREACHABLE
FILTER_REASON_TRIED
FILTER_REASON_EJECTED
FILTER_REASON_TOO_FAR\x07
FILTER_REASON_LOADED\b
FILTER_REASON_JOURNAL_FULL	*Ï
Regime
REGIME_UNSPECIFIED\0
\rREGIME_NORMAL
REGIME_PREFERRED
\fREGIME_PANIC
REGIME_LATE_EXPECTED
\vREGIME_NONE
\fREGIME_SPILL
REGIME_SUSPECT\x07
\fREGIME_HEDGE\b
\vREGIME_COLD	bproto3`),[e,f,a]),C=function(e){return e[e.UNSPECIFIED=0]=`UNSPECIFIED`,e[e.RESIDENCY=1]=`RESIDENCY`,e[e.NO_STOCK=2]=`NO_STOCK`,e[e.DRAINING=3]=`DRAINING`,e[e.UNREACHABLE=4]=`UNREACHABLE`,e[e.TRIED=5]=`TRIED`,e[e.EJECTED=6]=`EJECTED`,e[e.TOO_FAR=7]=`TOO_FAR`,e[e.LOADED=8]=`LOADED`,e[e.JOURNAL_FULL=9]=`JOURNAL_FULL`,e}({}),ae=t(btoa(`
rimlight/region/v1/load.protorimlight.region.v1"°

LoadReport,
	residence (\v2.google.protobuf.Duration/
\fservice_time (\v2.google.protobuf.Duration
	in_flight (\r
\vparallelism (\r\x1B
arrivals_per_second ("A
	DropStock
\x07drop_id (	
	untouched (\r
\bsold_out (\b*u

RegionMode\x1B
REGION_MODE_UNSPECIFIED\0
REGION_MODE_SERVING
REGION_MODE_CORDONED
REGION_MODE_DRAINEDbproto3`),[e]),oe=function(e){return e[e.UNSPECIFIED=0]=`UNSPECIFIED`,e[e.SERVING=1]=`SERVING`,e[e.CORDONED=2]=`CORDONED`,e[e.DRAINED=3]=`DRAINED`,e}({}),w=t(btoa(`
rimlight/region/v1/check.protorimlight.region.v1"_
Path
\vmember_name (	&
rtt (\v2.google.protobuf.Duration\f
sent (\r\f
lost (\r"q

DiskHealth+
\bsync_p99 (\v2.google.protobuf.Duration\r
syncs (\r

free_bytes (
\vtotal_bytes (bproto3`),[e]),se=t(btoa(`
rimlight/region/v1/fault.protorimlight.region.v1"©
Fault+
kind (2.rimlight.region.v1.FaultKind/
\vexpire_time (\v2.google.protobuf.Timestamp-

added_time (\v2.google.protobuf.Duration
\verror_share (*
	FaultKind
FAULT_KIND_UNSPECIFIED\0
FAULT_KIND_BROWNOUT
FAULT_KIND_ERRORS
FAULT_KIND_PARTITION
FAULT_KIND_KILLbproto3`),[e,f]),ce=t(btoa(`
rimlight/router/v1/audit.protorimlight.router.v1"Õ

AuditEntry
\bentry_id (	(
time (\v2.google.protobuf.Timestamp
router (	\f
role (	
method (	
target (	
reason\x07 (	
before\b (	\r
asked	 (	\r
after
 (	
\x07problem\v (	bproto3`),[f]),le=t(btoa(`
rimlight/router/v1/check.protorimlight.router.v1">
\fCheckProblem
\x07subject (	
\bsentence (	\v
fix (	"ß
\rCheckedMember\f
name (	
\x07address (	
\x07version (	
\x07silence (	/
\fclock_offset (\v2.google.protobuf.Duration.
\vclock_error (\v2.google.protobuf.Duration,
disk\x07 (\v2.rimlight.region.v1.DiskHealth"k
\vCheckedPath\f
from (	

to (	&
rtt (\v2.google.protobuf.Duration\f
sent (\r\f
lost (\rbproto3`),[e,w]),ue=t(btoa(`
rimlight/router/v1/slip.protorimlight.router.v1"
Slip
\x07slip_id (	,
scope (2.rimlight.router.v1.SlipScope\f
flow (	
region (	
\x07drop_id (	*
rule (2.rimlight.router.v1.SlipRule,
cause\x07 (2.rimlight.router.v1.SlipCause.

start_time\b (\v2.google.protobuf.Timestamp,
\bend_time	 (\v2.google.protobuf.Timestamp
\fshare_before
 (
\vworst_share\v (
\vshare_after\f (\r
calls\r (

late_calls (
\fdecision_ids (	
\vexplanation (	
silent_routers (	,
	time_lost (\v2.google.protobuf.Duration"­

SlipWindow,
scope (2.rimlight.router.v1.SlipScope\f
name (	\r
calls (

late_calls (

late_share (,
	objective (\v2.google.protobuf.Duration"?

CallCounts\r
calls (

late_calls (
causes ("
\fWindowCounts,
scope (2.rimlight.router.v1.SlipScope\f
name (	/
\x07sliding (\v2.rimlight.router.v1.CallCounts-
whole (\v2.rimlight.router.v1.CallCounts,
past (\v2.rimlight.router.v1.CallCounts
\fdecision_ids (	.
\vcounted_for\x07 (\v2.google.protobuf.Duration*h
	SlipScope
SLIP_SCOPE_UNSPECIFIED\0
SLIP_SCOPE_FLOW
SLIP_SCOPE_REGION
SLIP_SCOPE_DROP*d
\bSlipRule
SLIP_RULE_UNSPECIFIED\0
SLIP_RULE_SLIDING
SLIP_RULE_DROP
SLIP_RULE_BURN*
	SlipCause
SLIP_CAUSE_UNSPECIFIED\0
SLIP_CAUSE_NETWORK
SLIP_CAUSE_SERVICE
SLIP_CAUSE_QUEUE
SLIP_CAUSE_NO_REGIONbproto3`),[e,f]),de=t(btoa(`
-rimlight/router/v1/router_admin_service.protorimlight.router.v1"ç
\fRegionStatus\f
name (	
\x07node_id (	
\x07address (	,
mode (2.rimlight.region.v1.RegionMode
	reachable (\b\r
share (*
\x07network\x07 (\v2.google.protobuf.Duration*
\x07service\b (\v2.google.protobuf.Duration
	in_flight	 (\r
\vparallelism
 (\r
\fsuccess_rate\v (4
last_answer_time\f (\v2.google.protobuf.Timestamp,
stock\r (\v2.rimlight.region.v1.DropStock
\vjournal_lag (\r
zones (	
\x07version (	

last_error (	)
median (\v2.google.protobuf.Duration&
p99 (\v2.google.protobuf.Duration

late_share (
\x07ejected (\b
\x07suspect (\b4
mode_expire_time (\v2.google.protobuf.Timestamp)
faults (\v2.rimlight.region.v1.Fault
\x07drained (\b
offers_per_second ("O

RouterView
router (	1
\x07regions (\v2 .rimlight.router.v1.RegionStatus"O
ListRegionsRequest

local_only (\b
	page_size (

page_token (	"¸
ListRegionsResponse1
\x07regions (\v2 .rimlight.router.v1.RegionStatus
router (	-
peers (\v2.rimlight.router.v1.RouterView
silent_routers (	
next_page_token (	"
WatchRegionsRequest"I
WatchRegionsResponse1
\x07regions (\v2 .rimlight.router.v1.RegionStatus"
GetRttMatrixRequest"
\x07RttCell
router (	
region (	&
rtt (\v2.google.protobuf.Duration,
	deviation (\v2.google.protobuf.Duration"Z
GetRttMatrixResponse*
cells (\v2\x1B.rimlight.router.v1.RttCell
silent_routers (	"¦
Member
\vmember_name (	,
role (2.rimlight.router.v1.MemberRole\f
name (	
\vrpc_address (	
\fgossip_state (	
\x07version (	,
mode\x07 (2.rimlight.region.v1.RegionMode
\x07node_id\b (	
	reachable	 (\b
\vprobe_state
 (	

call_state\v (	
\fdisagreement\f (	";
ListMembersRequest
	page_size (

page_token (	"[
ListMembersResponse+
\x07members (\v2.rimlight.router.v1.Member
next_page_token (	"A
ExplainDecisionRequest
\vdecision_id (	

local_only (\b"I
ExplainDecisionResponse.
\bdecision (\v2.rimlight.router.v1.Decision"¡
ListDecisionsRequest,
	min_total (\v2.google.protobuf.Duration
\x07drop_id (	
	page_size (

page_token (	
\vfailed_only (\b
region (	"a
ListDecisionsResponse/
	decisions (\v2.rimlight.router.v1.Decision
next_page_token (	"q
\fRegionChange
region (	
\x07drained (\b)
slower (\v2.google.protobuf.Duration
\rwithout_stock (\b"u
SimulateDecisionRequest
\vdecision_id (	1
\x07changes (\v2 .rimlight.router.v1.RegionChange

local_only (\b"u
SimulateDecisionResponse*
actual (\v2.rimlight.router.v1.Choice-
	simulated (\v2.rimlight.router.v1.Choice"É
SetRegionModeRequest

request_id (	
region (	,
mode (2.rimlight.region.v1.RegionMode
reason (	\r
force (\b/
\fexpire_after (\v2.google.protobuf.Duration
\x07dry_run\x07 (\b"|
LoadPrediction
region (	\r
share (
predicted_share (
\vutilisation (
predicted_utilisation ("æ
SetRegionModeResponse1
\x07regions (\v2 .rimlight.router.v1.RegionStatus7
\vpredictions (\v2".rimlight.router.v1.LoadPrediction
predicted_from_calls (
unserved_calls (
silent_routers (	
\vlast_region (\b"N
ListSlipsRequest
\vactive_only (\b
	page_size (

page_token (	"
ListSlipsResponse'
slips (\v2.rimlight.router.v1.Slip
next_page_token (	/
\x07windows (\v2.rimlight.router.v1.SlipWindow
silent_routers (	")
WatchSlipsRequest
\fresume_token (	"7
\fSlipSnapshot'
slips (\v2.rimlight.router.v1.Slip"
WatchSlipsResponse4
\bsnapshot (\v2 .rimlight.router.v1.SlipSnapshotH\0+
\x07changed (\v2.rimlight.router.v1.SlipH\0
\fresume_token (	B\b
update"
GetWindowsRequest"W
GetWindowsResponse
router (	1
\x07windows (\v2 .rimlight.router.v1.WindowCounts"T
ListAuditEntriesRequest

local_only (\b
	page_size (

page_token (	"|
ListAuditEntriesResponse/
\x07entries (\v2.rimlight.router.v1.AuditEntry
next_page_token (	
silent_routers (	"P
\fCheckRequest

local_only (\b,
	slow_disk (\v2.google.protobuf.Duration"È
\rCheckResponse2
\bproblems (\v2 .rimlight.router.v1.CheckProblem2
\x07members (\v2!.rimlight.router.v1.CheckedMember.
paths (\v2.rimlight.router.v1.CheckedPath+
	own_paths (\v2.rimlight.region.v1.Path
\x07version (	0
\freceive_time (\v2.google.protobuf.Timestamp/
\vanswer_time\x07 (\v2.google.protobuf.Timestamp"æ
InjectFaultRequest

request_id (	
region (	+
kind (2.rimlight.region.v1.FaultKind+
\bduration (\v2.google.protobuf.Duration-

added_time (\v2.google.protobuf.Duration
\verror_share (
reason\x07 (	"@
InjectFaultResponse)
faults (\v2.rimlight.region.v1.Fault*Y

MemberRole\x1B
MEMBER_ROLE_UNSPECIFIED\0
MEMBER_ROLE_ROUTER
MEMBER_ROLE_REGION2¼\v
RouterAdminServicec
\vListRegions&.rimlight.router.v1.ListRegionsRequest'.rimlight.router.v1.ListRegionsResponse"h
\fWatchRegions'.rimlight.router.v1.WatchRegionsRequest(.rimlight.router.v1.WatchRegionsResponse"0f
\fGetRttMatrix'.rimlight.router.v1.GetRttMatrixRequest(.rimlight.router.v1.GetRttMatrixResponse"c
\vListMembers&.rimlight.router.v1.ListMembersRequest'.rimlight.router.v1.ListMembersResponse"o
ExplainDecision*.rimlight.router.v1.ExplainDecisionRequest+.rimlight.router.v1.ExplainDecisionResponse"i
\rListDecisions(.rimlight.router.v1.ListDecisionsRequest).rimlight.router.v1.ListDecisionsResponse"r
SimulateDecision+.rimlight.router.v1.SimulateDecisionRequest,.rimlight.router.v1.SimulateDecisionResponse"i
\rSetRegionMode(.rimlight.router.v1.SetRegionModeRequest).rimlight.router.v1.SetRegionModeResponse"]
	ListSlips$.rimlight.router.v1.ListSlipsRequest%.rimlight.router.v1.ListSlipsResponse"b

WatchSlips%.rimlight.router.v1.WatchSlipsRequest&.rimlight.router.v1.WatchSlipsResponse"0\`

GetWindows%.rimlight.router.v1.GetWindowsRequest&.rimlight.router.v1.GetWindowsResponse"r
ListAuditEntries+.rimlight.router.v1.ListAuditEntriesRequest,.rimlight.router.v1.ListAuditEntriesResponse"Q
Check .rimlight.router.v1.CheckRequest!.rimlight.router.v1.CheckResponse"c
\vInjectFault&.rimlight.router.v1.InjectFaultRequest'.rimlight.router.v1.InjectFaultResponse"bproto3`),[e,f,w,se,ae,ce,le,ie,ue]),T=d(de,0),fe={[C.UNSPECIFIED]:``,[C.RESIDENCY]:`not in your zones`,[C.NO_STOCK]:`has no unit of this drop`,[C.DRAINING]:`is being drained`,[C.UNREACHABLE]:`does not answer`,[C.TRIED]:`was asked already`,[C.EJECTED]:`its calls fail`,[C.TOO_FAR]:`too far for the time left`,[C.LOADED]:`too busy for a second copy`,[C.JOURNAL_FULL]:`its disk is full`},pe={0:`answered`,[p.Canceled]:`was not needed any more`};async function E(e,t,n){let{decision:r}=await m(T,e).explainDecision({decisionId:t});if(!r)return[];let i=r.choices.find(e=>e.region===n)??r.choices[0],a=(i?.candidates??[]).map(e=>O(e,e.region===n));return[v(`p`,``,i?.explanation??``,...D(r)),v(`details`,``,v(`summary`,``,`Every region, as the router saw it`),v(`table`,``,v(`tbody`,``,...a)))]}function D({attempts:e}){if(e.length<2)return[];let t=e.map(e=>`${e.region} ${pe[e.statusCode]??`failed`} after ${x(i(e.duration))}`);return[` ${e.length} regions were asked: ${t.join(`, `)}.`]}function O(e,t){let n=v(`th`,``,e.region);n.scope=`row`;let r=fe[e.filterReason]??`could not be chosen`;return v(`tr`,t?`chosen`:``,n,v(`td`,`ms`,x(i(e.expected))),v(`td`,``,r||(t?`chosen`:`later`)))}async function k(e){let{regions:t}=await m(T,e).listRegions({localOnly:!0},{timeoutMs:2e3}),n=e=>j(e)===`good`?i(e.network)+i(e.service):1/0,r=t.reduce((e,t)=>e&&n(e)<=n(t)?e:t,void 0);return{rows:t.map(e=>A(e,e===r)),best:r?.name??``}}function A(e,t){let n=j(e),r=v(`th`,``,e.name);r.scope=`row`;let a=t=>v(`td`,`ms`,e.reachable?x(t):`–`);return v(`tr`,t?`chosen`:``,r,a(i(e.network)),a(i(e.service)),v(`td`,n===`good`?`good`:`bad`,n))}function j(e){return e.reachable?e.mode===oe.SERVING?e.faults.length>0?`drill`:e.ejected?`ejected`:e.suspect?`suspect`:`good`:`drained`:`silent`}var M=class{routers;changed;place;used;#e=new Map;constructor(e,t){this.routers=e,this.changed=t}rttMs(e){return this.place?.rttMs[e.name]??0}isCut(e){return this.#r(e).signal.aborted}toggle(e){this.isCut(e)?this.#e.delete(e.url):this.#r(e).abort(N()),this.changed()}transport=e=>this.#t(e,!0);aside=e=>this.#t(e,!1);#t(e,t){let r=this.routers.find(t=>t.url===e);return n({baseUrl:e,useBinaryFormat:!0,interceptors:r?[this.#n(r,t)]:[]})}#n(e,t){return n=>async r=>{let{signal:i}=this.#r(e);if(i.aborted)throw N();let a=AbortSignal.any([r.signal,i]),o=this.rttMs(e)/2;o>0&&await c(o,a);let s=await n({...r,signal:a});return o>0&&await c(o,a),t&&this.used!==e&&r.method.name!==`ListKeys`&&(this.used=e,this.changed()),s}}#r(e){let t=this.#e.get(e.url);return t||this.#e.set(e.url,t=new AbortController),t}};function N(){return new r(`the line to this router is unplugged`,p.Unavailable)}var P=class{#e;#t=0;#n=!1;#r=()=>{};#i=new Promise(e=>this.#r=e);get value(){return this.#e}set(e){this.#e=e,this.#t++,this.#a()}end(){this.#n=!0,this.#a()}async*watch(e){let t=new Promise(t=>e?.addEventListener(`abort`,()=>t(),{once:!0}));for(let n=0;!e?.aborted;)if(this.#t>n)n=this.#t,yield this.#e;else{if(this.#n)return;await Promise.race([this.#i,t])}}#a(){this.#r(),this.#i=new Promise(e=>this.#r=e)}},F=3,I=class{line;listener;client;voucher=``;drops=new P;#e=new Map;#t=new AbortController;constructor(e,t){this.line=e,this.listener=t,this.client=this.#n()}move(e){this.line.place=e,this.line.used=void 0,this.client=this.#n()}becomeSomebodyElse(){u(),this.client=this.#n()}#n(){this.#t.abort(),this.#t=new AbortController;let e=[...this.line.routers].sort((e,t)=>this.line.rttMs(e)-this.line.rttMs(t)),t=new l({routers:e.map(e=>e.url),transport:this.line.transport,sealer:g,consent:[`delivery`]});return this.#r(t,this.#t.signal),t}async#r(e,t){await e.measure(t);try{for await(let n of e.watchDrops(t))this.drops.set(n)}catch(e){if(!t.aborted)throw e}}channel(e){let t=t=>({...t,drops:t.drops.filter(t=>t.channelId===e)}),{drops:n}=this;return{now:()=>this.client.now(),watchDrops:async function*(e){for await(let r of n.watch(e))yield t(r)},claim:(e,t)=>this.#i(e,t),follow:(e,t)=>this.follow(e).watch(t),resume:async()=>{},chooseMakeGood:(e,t,n)=>this.client.chooseMakeGood(e,t,n)}}async#i(e,t){let n=performance.now(),r=await this.client.claim(e,{...t,...this.voucher&&{voucher:this.voucher}});return this.listener.bought(e,r,performance.now()-n),r}follow(e){let t=this.#e.get(e);return t||(this.#e.set(e,t=new P),this.#a(e,t)),t}async#a(e,t){try{for await(let n of this.client.follow(e))t.set(n),this.listener.changed(n)}catch(t){this.listener.lost(e,t)}finally{t.end()}}async resume(e){let t=[...e].sort((e,t)=>Number(!!e.outcome)-Number(!!t.outcome));await Promise.all(Array.from({length:F},async()=>{for(let e=t.shift();e;e=t.shift())for await(let t of this.follow(e.purchaseId).watch());}))}},L=2e3,R=20,z=`rimlight-taps/`,B=`rimlight-place`,V=await(await fetch(`/platform.json`)).json(),H=new Map,U=new M(V.routers,X),W=new I(U,{bought(e,t,n){if(t.kind!==`accepted`&&t.kind!==`unknown`)return;q(void 0);let r=K({purchaseId:t.purchaseId,title:e.title,price:e.price});if(t.kind===`accepted`){let{region:e,router:i,decision:a}=t.via,o={tookMs:n,region:e,router:i,decision:a};sessionStorage.setItem(z+t.purchaseId,JSON.stringify(o)),r.verified(t.receipt),J(r,o)}W.follow(t.purchaseId)},changed(e){H.get(e.purchaseId)?.changed(e)},lost(e,t){H.get(e)?.doubtful(t instanceof o?G(t):`It could not be followed: ${String(t)}`)}});function G(e){return e.why===`unknown_key`?`Signed with a key that this platform does not publish: of an earlier run, perhaps. It cannot be verified.`:`What it says is not to be relied on (${e.why}).`}function K(e){let t=H.get(e.purchaseId);return t||(t=new re(e.purchaseId,e.title,e.price,{complete:async(e,t)=>{await m(ne,U.aside(Y().url)).completeAction({paymentIntentId:e,decline:t})},choose:async(e,t)=>{try{H.get(e)?.changed(await W.client.chooseMakeGood(e,t))}catch(e){$(e)}},spend:q,forget:async e=>{await W.client.forget(e),H.get(e)?.element.remove(),H.delete(e),y(`nothing`).hidden=H.size>0}}),H.set(e.purchaseId,t),y(`purchases`).prepend(t.element),y(`nothing`).hidden=!0),t}function q(e){W.voucher=e?.text??``,y(`voucher`).hidden=!e,e&&(y(`voucher-worth`).textContent=`${e.kind.replaceAll(`_`,` `)} of ${s(e.price)}`)}function J(e,t){e.accepted(t.tookMs,t.region,V.routers.find(e=>e.url===t.router)?.name),E(U.aside(t.router),t.decision,t.region).then(t=>e.explained(t),()=>e.explained([v(`p`,`quiet`,`Why there: rimlight explain ${t.decision}`)]))}async function me(){let e=(await W.client.purchases()).slice(0,R);for(let t of e.toReversed()){let e=K(t),n=sessionStorage.getItem(z+t.purchaseId);n?J(e,JSON.parse(n)):t.region&&e.accepted(void 0,t.region,void 0)}await Promise.all(e.map(async({purchaseId:e,receipt:t})=>{if(t)try{(await W.client.verify(e)).receipt&&H.get(e)?.verified(t)}catch(t){H.get(e)?.doubtful(t instanceof o?G(t):`It could not be verified now.`)}})),await W.resume(e)}async function he(){let e=new Map;for await(let{drops:t,live:n}of W.drops.watch()){for(let n of[...new Set(t.map(e=>e.channelId))].sort()){if(e.has(n))continue;let t=new ee;t.client=W.channel(n),t.texts={buy:e=>`Buy for ${e} (TEST)`},t.pay=()=>document.querySelector(`input[name=card]:checked`)?.value??``,t.deliver=()=>new TextEncoder().encode(y(`address`).value);let r=v(`span`,`stock`);e.size===0&&y(`drops`).replaceChildren(),e.set(n,r),y(`drops`).append(v(`div`,`channel`,v(`p`,``,v(`b`,``,n),r),t))}y(`where-to`).hidden=!t.some(e=>e.physical);for(let[r,i]of e){let[e,a]=ge(t.filter(e=>e.channelId===r),n);i.textContent=e,i.className=`stock ${a}`}}}function ge(e,t){let n=e.filter(e=>e.state===`open`);return t?n.length===0?[e.some(e=>e.state===`planned`||e.state===`armed`)?`opens soon`:`between drops`,``]:n.every(e=>e.soldOut)?[`sold out`,`bad`]:[`in stock`,`good`]:[`not heard`,`bad`]}function Y(){if(U.used&&!U.isCut(U.used))return U.used;let e=U.routers.filter(e=>!U.isCut(e));return[...e.length>0?e:U.routers].sort((e,t)=>U.rttMs(e)-U.rttMs(t))[0]}function X(){let e=Y(),{place:t}=U,n=e=>t?x(U.rttMs(e)):``;y(`route`).textContent=U.isCut(e)?`No router can be reached.`:`Your calls go through ${e.name}${t?`, ${n(e)} from ${t.name}`:``}.`,y(`seen-by`).textContent=e.name;let r=document.activeElement?.dataset.router;y(`routers`).replaceChildren(...V.routers.map(t=>{let r=U.isCut(t),i=b(r?`Plug in`:`Unplug`,`plain`,()=>U.toggle(t));return i.dataset.router=t.name,i.setAttribute(`aria-label`,`${r?`Plug in`:`Unplug`} ${t.name}`),v(`li`,r?`cut`:t===e?`used`:``,t.name,v(`span`,`ms`,r?`unplugged`:n(t)),i)})),r&&document.querySelector(`[data-router="${r}"]`)?.focus(),Z()}async function Z(){let e=Y();try{let{rows:t,best:n}=await k(U.aside(e.url));if(e!==Y())return;y(`regions`).replaceChildren(...t),_e(n)}catch{y(`regions`).replaceChildren(v(`tr`,``,v(`td`,`bad`,`The router does not answer.`)))}}function _e(e){if(e===``)return;let[t,n]=V.drills?[`Cut a region off for 30 seconds, and tap:`,`rimlight fault partition ${e} --router ${Y().url}`]:V.split?[`Kill a region's process by the pid that the platform printed; it comes back after 5 seconds:`,`kill -9 PID`]:[`To break a region, start the platform with one of:`,`rimlight dev --drills   # then: rimlight fault partition REGION
rimlight dev --split    # then: kill -9 PID`];y(`outage-region`).textContent=t,y(`outage-command`).textContent=n}function Q(){let e=y(`place`),t=e=>{let t=v(`option`,``,e);return t.value=e,t};e.append(t(`this machine`),...V.places.map(e=>t(e.name)));let n=sessionStorage.getItem(B);n&&V.places.some(e=>e.name===n)&&(e.value=n);let r=()=>{sessionStorage.setItem(B,e.value),W.move(V.places.find(t=>t.name===e.value)),X()};e.addEventListener(`change`,r),e.selectedIndex>0&&r()}function $(e){let t=y(`trouble`);t.textContent=`The page is in trouble: ${String(e)}`,t.hidden=!1}y(`no-voucher`).addEventListener(`click`,()=>q(void 0)),y(`somebody`).addEventListener(`click`,()=>W.becomeSomebodyElse()),Q(),X(),setInterval(()=>{document.hidden||Z()},L),he().catch($),me().catch($);