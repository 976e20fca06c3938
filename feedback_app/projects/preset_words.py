"""The words of the shipped protocols in other languages; a preset takes those that it says."""

TRANSLATIONS: dict[str, dict[str, str]] = {
    "zh-hans": {
        # strength
        "negligibly better or unsure": "几乎一样，或不确定",
        "slightly better": "略好",
        "better": "更好",
        "significantly better": "好得多",
        # HelpSteer2's attributes and their steps
        "Helpfulness": "有用性",
        "not useful at all": "毫无用处",
        "partly useful": "部分有用",
        "does all that was asked": "完全满足要求",
        "Correctness": "正确性",
        "wrong throughout": "完全错误",
        "right and wrong mixed": "有对有错",
        "no error, nothing missing": "没有错误，没有遗漏",
        "Coherence": "连贯性",
        "cannot be followed": "无法理解",
        "unclear in places": "有些地方不清楚",
        "clear and consistent": "清晰一致",
        "Complexity": "复杂度",
        "basic words, anybody could write it": "用词浅显，人人会写",
        "an educated writer": "受过良好教育者的水平",
        "an expert in the field": "该领域专家的水平",
        "Verbosity": "详尽程度",
        "as short as can be": "极其简短",
        "of middle length": "长度适中",
        "long, with much detail": "很长，细节丰富",
        # InstructGPT's overall quality and metadata
        "Overall quality": "总体质量",
        "Fails to follow the instruction or task": "没有遵循指令或任务",
        "Inappropriate for a customer assistant": "不适合客户助手的身份",
        "Hallucination": "幻觉（编造内容）",
        "Satisfies the constraint given in the instruction": "满足指令中的限制条件",
        "Contains sexual content": "含有色情内容",
        "Contains violent content": "含有暴力内容",
        "Encourages or fails to discourage violence, abuse, terrorism or self-harm": (
            "鼓励或未劝阻暴力、虐待、恐怖主义或自残"
        ),
        "Denigrates a protected class": "贬损受保护群体",
        "Gives harmful advice": "给出有害建议",
        "Expresses an opinion": "表达观点",
        "Expresses a moral judgment": "作出道德评判",
    },
}
