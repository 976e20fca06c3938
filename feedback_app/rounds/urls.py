"""Pages of the rounds app."""

from django.urls import URLPattern, URLResolver, path

from feedback_app.rounds.views import elsewhere, hosts, overview, policies, recipes, rounds, schedules, trials

app_name = "rounds"
urlpatterns: list[URLPattern | URLResolver] = [
    path("hosts/", hosts.hosts, name="hosts"),
    path("p/<slug:slug>/", overview.overview, name="overview"),
    path("p/<slug:slug>/agreement/", overview.agreement, name="agreement"),
    path("p/<slug:slug>/sample/", overview.sample_now, name="sample"),
    path("p/<slug:slug>/simulate/", overview.simulate, name="simulate"),
    path("p/<slug:slug>/rounds/", rounds.rounds, name="rounds"),
    path("p/<slug:slug>/rounds/start/", rounds.start, name="start"),
    path("p/<slug:slug>/rounds/recipe/", recipes.recipe, name="recipe"),
    path("p/<slug:slug>/rounds/recipe/save/", recipes.save, name="recipe_save"),
    path("p/<slug:slug>/rounds/recipe/estimate/", trials.estimate, name="estimate"),
    path("p/<slug:slug>/rounds/recipe/try/", trials.start, name="try"),
    path("p/<slug:slug>/rounds/recipe/tries/<uuid:trial_id>/", trials.trial, name="trial"),
    path("p/<slug:slug>/rounds/recipe/tries/<uuid:trial_id>/cancel/", trials.cancel, name="trial_cancel"),
    path("p/<slug:slug>/rounds/recipe/text/", recipes.text, name="recipe_text"),
    path("p/<slug:slug>/rounds/recipe/text/save/", recipes.save_text, name="recipe_text_save"),
    path("p/<slug:slug>/rounds/recipe/<int:number>/", recipes.version, name="recipe_version"),
    path("p/<slug:slug>/rounds/recipe/<int:number>/use/", recipes.use_again, name="recipe_use"),
    path("p/<slug:slug>/rounds/schedules/", schedules.schedules, name="schedules"),
    path("p/<slug:slug>/rounds/schedules/add/", schedules.add, name="schedule_add"),
    path("p/<slug:slug>/rounds/schedules/<int:schedule_id>/", schedules.change, name="schedule"),
    path("p/<slug:slug>/rounds/<int:number>/", rounds.round_page, name="round"),
    path("p/<slug:slug>/rounds/<int:number>/curves/", rounds.curves, name="curves"),
    path("p/<slug:slug>/rounds/<int:number>/act/", rounds.act, name="act"),
    path("p/<slug:slug>/policies/", policies.policies, name="policies"),
    path("p/<slug:slug>/policies/register/", elsewhere.register, name="register_policy"),
    path("p/<slug:slug>/policies/<int:number>/evaluate/", elsewhere.evaluate, name="policy_evaluate"),
    path("p/<slug:slug>/policies/<int:number>/", policies.policy, name="policy"),
    path("p/<slug:slug>/policies/<int:number>/pin/", policies.pin, name="policy_pin"),
    path("p/<slug:slug>/policies/<int:number>/card/", policies.card, name="policy_card"),
    path("p/<slug:slug>/policies/<int:number>/download/", policies.download, name="policy_download"),
]
