"""Pages of annotation for reviewers and managers: tasks, quality and review."""

from django.urls import URLPattern, URLResolver, path

from feedback_app.annotation.views import quality, review, tasks, work

app_name = "manager"
urlpatterns: list[URLPattern | URLResolver] = [
    path("p/<slug:slug>/tasks/", tasks.tasks, name="tasks"),
    path("p/<slug:slug>/tasks/change/", tasks.change, name="tasks_change"),
    path("p/<slug:slug>/tasks/sample/", tasks.sample_now, name="sample"),
    path("p/<slug:slug>/tasks/prompts/", tasks.add_prompts, name="prompts_add"),
    path("p/<slug:slug>/tasks/<uuid:task_id>/", tasks.task, name="task"),
    path("p/<slug:slug>/tasks/<uuid:task_id>/judgments/<uuid:judgment_id>/void/", tasks.void, name="void"),
    path("p/<slug:slug>/work/", work.work, name="work"),
    path("p/<slug:slug>/quality/", quality.quality, name="quality"),
    path("p/<slug:slug>/quality/fitted/", quality.fitted, name="quality_fitted"),
    path("p/<slug:slug>/quality/void/", quality.void, name="quality_void"),
    path("p/<slug:slug>/review/", review.queue, name="review"),
    path("p/<slug:slug>/review/<uuid:task_id>/", review.review, name="review_task"),
    path("p/<slug:slug>/review/<uuid:task_id>/decide/", review.decide, name="review_decide"),
    path("p/<slug:slug>/review/<uuid:task_id>/gold/", review.gold, name="gold"),
]
